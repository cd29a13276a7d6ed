"""From addresses to files: volumes, a real S3 server, HTTPS with failures, and what is said then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest
from modelyard_workloads.data.sources import MODEL, Patience, open_source
from modelyard_workloads.exits import DataError
from servers.files import FileServer, file_server
from servers.s3 import s3_server

QUICK = Patience(attempts=3, first_pause=0.01)
KEYS = {"AWS_ACCESS_KEY_ID": "the-id", "AWS_SECRET_ACCESS_KEY": "the-secret"}
CONTENT = b"".join(b"%d,some text\n" % n for n in range(100_000))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as address:
        store = pyarrow.fs.S3FileSystem(
            access_key=KEYS["AWS_ACCESS_KEY_ID"],
            secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            endpoint_override=address,
            region="us-east-1",
            allow_bucket_creation=True,
        )
        store.create_dir("bucket")
        for name, content in {
            "data/b.csv": CONTENT,
            "data/deep/a #1?.csv": b"a\n1\n",
            "data/_SUCCESS": b"",
            "other.txt": b"x",
        }.items():
            with store.open_output_stream(f"bucket/{name}") as stream:
                stream.write(content)
        yield address


@pytest.fixture
def dataset_keys(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(f"MODELYARD_DATASET_{name}", value)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    certificate = tmp_path / "server.pem"
    with file_server({"/data/rows.csv": CONTENT}, certificate) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        yield server


def test_a_folder_is_all_files_below_it_in_order_without_the_hidden_ones(tmp_path: Path) -> None:
    for name in ("z.txt", "a/b c.txt", ".hidden", "_SUCCESS", ".git/config"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    source = open_source((tmp_path / "data").as_uri())
    assert [file.relative for file in source.files] == ["a/b c.txt", "z.txt"]
    with source.files[0].open() as stream:
        assert stream.read() == b"a/b c.txt"
    assert source.local_directory() == tmp_path / "data"
    (single,) = open_source((tmp_path / "data" / "a" / "b c.txt").as_uri()).files
    assert (single.relative, single.local()) == ("b c.txt", tmp_path / "data" / "a" / "b c.txt")


@pytest.mark.usefixtures("dataset_keys")
def test_s3_is_listed_streamed_and_cached() -> None:
    source = open_source("s3://bucket/data/")
    assert [file.address for file in source.files] == ["s3://bucket/data/b.csv", "s3://bucket/data/deep/a #1?.csv"]
    with source.files[0].open() as stream:
        assert stream.readline() == b"0,some text\n"
        assert stream.read() == CONTENT.partition(b"\n")[2]
    path = source.files[0].local()
    assert path.read_bytes() == CONTENT
    assert source.files[0].local() == path
    folder = source.local_directory()
    assert (folder / "deep" / "a #1?.csv").read_bytes() == b"a\n1\n"
    (single,) = open_source("s3://bucket/other.txt").files
    assert single.relative == "other.txt"


def test_the_models_keys_are_not_the_data_sets(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(f"MODELYARD_MODEL_{name}", value)
    assert open_source("s3://bucket/other.txt", MODEL).files
    monkeypatch.setenv("MODELYARD_DATASET_AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"dataset.uri: s3://bucket/other.txt cannot be read"):
        open_source("s3://bucket/other.txt", patience=Patience(attempts=1))


@pytest.mark.usefixtures("dataset_keys")
@pytest.mark.parametrize("uri", ["s3://bucket/nothing/here", "s3://no-such-bucket/a.csv"])
def test_what_is_not_in_s3_is_named(uri: str) -> None:
    with pytest.raises(DataError, match=f"dataset.uri: .*{uri}"):
        open_source(uri, patience=QUICK)


def test_a_download_that_breaks_is_read_on_where_it_broke(web: FileServer) -> None:
    (file,) = open_source(f"{web.url}/data/rows.csv", patience=QUICK).files
    web.breaks = 2
    with file.open() as stream:
        assert stream.read() == CONTENT
    assert web.breaks == 0
    web.refuses = 1
    assert file.local().read_bytes() == CONTENT
    requests = len(web.requests)
    assert file.local().read_bytes() == CONTENT
    assert len(web.requests) == requests


def test_a_changed_file_is_fetched_again(web: FileServer) -> None:
    address = f"{web.url}/data/rows.csv"
    assert open_source(address).files[0].local().read_bytes() == CONTENT
    web.files["/data/rows.csv"] = b"other"
    assert open_source(address).files[0].local().read_bytes() == b"other"


def test_a_server_that_stays_broken_is_given_up(web: FileServer) -> None:
    (file,) = open_source(f"{web.url}/data/rows.csv", patience=QUICK).files
    web.breaks = 1000
    with pytest.raises(DataError, match=r"dataset.uri: https://.*/data/rows.csv cannot be read"):
        file.local()
    assert 1000 - web.breaks <= 4 * QUICK.attempts


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("file:///does/not/exist", r"dataset.uri: file:///does/not/exist: there is nothing there"),
        ("ftp://host/file", r"dataset.uri: 'ftp://host/file' cannot be read; write one of example://"),
        ("just/a/path", r"dataset.uri: 'just/a/path' cannot be read"),
        ("example://nothing", r"dataset.uri: example://nothing: there is no such example"),
        ("hf://only-one-part", r"dataset.uri: hf://only-one-part: write hf://OWNER/NAME"),
    ],
)
def test_bad_addresses_say_what_to_write(uri: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_source(uri, patience=QUICK)


def test_an_empty_folder_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no files"):
        open_source(tmp_path.as_uri())


def test_half_of_the_keys_and_a_wrong_endpoint_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_DATASET_AWS_ACCESS_KEY_ID", "a")
    with pytest.raises(DataError, match="both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_source("s3://bucket/a.csv", patience=QUICK)
    monkeypatch.setenv("MODELYARD_DATASET_AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("MODELYARD_DATASET_AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(DataError, match=r"AWS_ENDPOINT_URL must be http\(s\)://HOST"):
        open_source("s3://bucket/a.csv", patience=QUICK)


def test_files_are_chosen_by_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.CSV").write_text("x")
    (tmp_path / "readme.md").write_text("x")
    source = open_source(tmp_path.as_uri())
    assert [file.relative for file in source.select((".csv",))] == ["a.CSV"]
    with pytest.raises(DataError, match=r"no file of .* ends with .parquet; it has a.CSV, readme.md"):
        source.select((".parquet",))
