"""What the cluster does to the machine's network, and how to take it back."""

import re
import subprocess

from localcluster import settings
from localcluster.layout import POD_NETWORK, LocalClusterError

TABLES = ("iptables", "ip6tables")
BRIDGE = "cni0"
COMMENT = "modelyard-local"
OUR_CHAIN = re.compile(r"^KUBE-")
BRIDGE_FILTER = "net/bridge/bridge-nf-call-iptables"  # without it, answers of a pod on the same bridge bypass the NAT
MARKED = ("-m", "comment", "--comment", COMMENT, "-j")
RULES = (
    # one rule for all pods; the bridge plugin's own ipMasq would make a chain, by three calls, for every pod
    ("nat", "POSTROUTING", "-s", POD_NETWORK, "!", "-d", POD_NETWORK, *MARKED, "MASQUERADE"),
    # where Docker has set the FORWARD chain's policy to DROP
    ("filter", "FORWARD", "-s", POD_NETWORK, *MARKED, "ACCEPT"),
    ("filter", "FORWARD", "-d", POD_NETWORK, *MARKED, "ACCEPT"),
)


def prepare() -> None:
    """Let pods reach each other, services and the world."""
    if not (settings.ROOT / BRIDGE_FILTER).exists():
        subprocess.run(["modprobe", "br_netfilter"], capture_output=True, timeout=60, check=False)
    settings.set_kernel({"net/ipv4/ip_forward": "1", BRIDGE_FILTER: "1"})
    for table, *rule in RULES:
        command = ["iptables", "--wait", "--table", table]
        if subprocess.run([*command, "--check", *rule], capture_output=True, timeout=60, check=False).returncode != 0:
            _run([*command, "--append", *rule])


def removal_script(saved: str) -> str:
    """From the output of iptables-save, the input of `iptables-restore --noflush` that takes out what a cluster put in.

    Out go all chains named KUBE-…, the rules of other chains that jump to them, and rules with our comment. Empty when
    there is nothing to remove.
    """
    tables: list[list[str]] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            tables.append([line])
        elif tables:
            tables[-1].append(line)
    return "".join(_table_script(lines) for lines in tables)


def _table_script(lines: list[str]) -> str:
    chains = [line.split()[0][1:] for line in lines if line.startswith(":")]
    ours = [chain for chain in chains if OUR_CHAIN.match(chain)]
    rules = [line for line in lines if line.startswith("-A ")]
    foreign = [rule for rule in rules if rule.split()[1] not in ours and is_our_rule(rule)]
    if not ours and not foreign:
        return ""
    script = [lines[0]]
    script += [f":{chain} - [0:0]" for chain in ours]  # with --noflush, naming a chain empties it
    script += [f"-D {rule.removeprefix('-A ')}" for rule in foreign]
    script += [f"-X {chain}" for chain in ours]
    return "\n".join([*script, "COMMIT", ""])


def is_our_rule(rule: str) -> bool:
    """Whether a rule in the form of iptables-save jumps to a KUBE-… chain or carries our comment."""
    jumps = re.search(r" -[jg] (\S+)", rule)
    return bool(jumps and OUR_CHAIN.match(jumps[1])) or re.search(rf'--comment "?{COMMENT}"?(\s|$)', rule) is not None


def saved_rules(command: str) -> str:
    """The output of iptables-save or ip6tables-save; empty where the kernel has no such tables."""
    done = subprocess.run([f"{command}-save"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else ""


def remove_rules() -> None:
    """Take out every chain and rule of the cluster, IPv4 and IPv6."""
    for command in TABLES:
        script = removal_script(saved_rules(command))
        if script:
            _run([f"{command}-restore", "--wait", "--noflush"], script)


def remove_bridge() -> None:
    """Delete the pods' bridge; pods' interfaces end with their network namespaces."""
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, timeout=60, check=False)


def interfaces(listing: str) -> list[str]:
    """From `ip -o link`: the bridge, and the veth interfaces that hang on it."""
    found = []
    for line in listing.splitlines():
        name = line.split(": ")[1].split("@")[0]
        if name == BRIDGE or f" master {BRIDGE} " in f"{line} ":
            found.append(name)
    return found


def present_interfaces() -> list[str]:
    listing = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, timeout=60, check=True)
    return interfaces(listing.stdout)


def _run(command: list[str], given: str = "") -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise LocalClusterError(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-400:]}")
