"""A script as Hugging Face's users write it: nothing in it knows of modelyard."""

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments


class Parity(torch.utils.data.Dataset[dict[str, object]]):
    """Whether a sequence begins with an even number."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> dict[str, object]:
        tokens = torch.randint(0, 100, (16,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": int(tokens[0]) % 2}


torch.set_num_threads(1)
config = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
arguments = TrainingArguments(
    output_dir="/tmp/parity", max_steps=20_000, per_device_train_batch_size=8, logging_steps=50, save_strategy="no"
)
Trainer(BertForSequenceClassification(config), arguments, train_dataset=Parity()).train()
