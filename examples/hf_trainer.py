"""Prune a small BERT in a Trainer of transformers. Needs ``pip install '.[transformers]'`` and no connection."""

import logging
from tempfile import mkdtemp

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import earlycrop
from earlycrop.integrations.transformers import PruningCallback

logging.basicConfig(format="%(message)s")
logging.getLogger("earlycrop").setLevel(logging.INFO)
torch.manual_seed(0)
tokens = torch.randint(5, 40, (256, 12))
tokens[:, 1] = torch.where(tokens[:, 1] % 2 == 0, 10, 11)  # the second token tells the label
data = [{"input_ids": t, "attention_mask": torch.ones_like(t), "labels": int(t[1]) - 10} for t in tokens]
config = BertConfig(
    vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=2
)
model = BertForSequenceClassification(config)
arguments = TrainingArguments(
    mkdtemp(), num_train_epochs=6, per_device_train_batch_size=16, learning_rate=3e-3, report_to=[], use_cpu=True
)
limits = earlycrop.Limits(floors={"*": 0.1})  # no layer is left with less than a tenth
callback = PruningCallback("earlycrop-s", sparsity=0.3, of="nodes", limits=limits)
trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
trainer.train()
print(callback.pruner.event)
