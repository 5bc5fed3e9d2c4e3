"""Callbacks in real runs of transformers' and Lightning's own trainers: as a loop of one's own, stopped and resumed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import earlycrop
from tasks._torchvision import load
from tests.tiny_data import tiny_bert

transformers: Any = load("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:this Bert.* was shrunk"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SLOW = pytest.mark.slow
EPOCHS, CUT, COUNT = 4, 2, 44
METHODS: dict[str, dict[str, Any]] = {
    "earlycrop-s": {"of": "nodes", "sparsity": 0.3}, "earlycrop-u": {}, "magnitude-s": {"of": "nodes", "sparsity": 0.3},
}  # fmt: skip
OPTIONS: dict[str, Any] = {
    "sparsity": 0.4, "rounds": 2, "limits": earlycrop.Limits(exclude=["*embed*"]), "score_batches": 2,
}  # fmt: skip


def options(method: str) -> dict[str, Any]:
    return {**OPTIONS, **METHODS[method], "trigger": CUT}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model") / "bert")


def fresh(folder: Path, dropout: float = 0.1) -> Any:
    torch.manual_seed(0)
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, **drop)


def examples() -> list[dict[str, Any]]:
    """Sequences of twelve tokens of which the second tells the label."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 40, (COUNT, 12), generator=random)
    tokens[:, 1] = torch.where(tokens[:, 1] % 2 == 0, 10, 11)
    return [{"input_ids": t, "attention_mask": torch.ones_like(t), "labels": int(t[1]) - 10} for t in tokens]


def loss(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch).loss


def scored() -> list[Any]:
    return list(DataLoader(examples(), 8, collate_fn=transformers.default_data_collator))[:2]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def require_live(optimizer: Any, model: nn.Module) -> None:
    """The optimizer has every parameter of the model, with its state, and no other."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    for p in held:
        assert optimizer.state[p]["exp_avg"].shape == p.shape


# --- transformers


def trainer(folder: Path, model: Any, callback: Any, **changed: Any) -> Any:
    given = {
        "output_dir": str(folder), "num_train_epochs": EPOCHS, "per_device_train_batch_size": 8, "use_cpu": True,
        "learning_rate": 3e-3, "report_to": [], "disable_tqdm": True, "save_strategy": "no",
        "logging_strategy": "no", "dataloader_pin_memory": False, "optim": "adamw_torch", **changed,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(**given)
    return transformers.Trainer(model, arguments, train_dataset=examples(), callbacks=[callback])


def callback_of(method: str, **changed: Any) -> Any:
    pytest.importorskip("accelerate")
    from earlycrop.integrations.transformers import PruningCallback

    return PruningCallback(method, **{**options(method), **changed})


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u", pytest.param("magnitude-s", marks=SLOW)])
def test_a_trainer_s_run_is_that_of_a_loop_of_one_s_own(method: str, folder: Path, tmp_path: Path) -> None:
    callback, model = callback_of(method, batches=scored()), fresh(folder, 0)
    run = trainer(tmp_path, model, callback, train_sampling_strategy="sequential")
    run.train()
    event = callback.pruner.event
    assert (event.epoch, callback.pruner.epoch) == (CUT, EPOCHS)
    require_live(run.optimizer.optimizer, model)
    assert run.lr_scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-9)

    own = fresh(folder, 0)
    optimizer = torch.optim.AdamW(own.parameters(), 3e-3, weight_decay=0.0)
    steps = EPOCHS * 6
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    pruner = earlycrop.Pruner(own, optimizer, loss, method, epochs=EPOCHS, **options(method))
    pruner.step(scored())
    for _ in range(EPOCHS):
        own.train()
        for batch in DataLoader(examples(), 8, collate_fn=transformers.default_data_collator):
            optimizer.zero_grad()
            loss(own, batch).backward()
            nn.utils.clip_grad_norm_(own.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        pruner.step(scored())
    assert pruner.event is not None
    assert pruner.event.weight_sparsity == event.weight_sparsity > 0
    torch.testing.assert_close(weights(model), weights(own), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "strategy", "at"),
    [
        pytest.param("earlycrop-s", "epoch", 1, marks=SLOW), ("earlycrop-s", "epoch", 2), ("earlycrop-s", "steps", 2),
        ("earlycrop-u", "epoch", 3), ("earlycrop-u", "steps", 2),
    ],
)  # fmt: skip
def test_a_trainer_s_run_goes_on_from_a_checkpoint(
    method: str, strategy: str, at: int, folder: Path, tmp_path: Path
) -> None:
    """Gradients of two batches, random order, dropout; a checkpoint "in steps" is from before the epoch's pruning."""
    more = {"gradient_accumulation_steps": 2, "save_strategy": strategy, "save_steps": 3}
    whole, callback = fresh(folder), callback_of(method)
    trainer(tmp_path, whole, callback, **more).train()
    assert [e.epoch for e in callback.pruner.events] == [CUT]
    checkpoint = tmp_path / f"checkpoint-{3 * at}"
    written_after = callback_of(method)
    model = written_after.resume(fresh(folder), checkpoint)
    pruned = at > CUT or (at == CUT and strategy == "epoch")
    shrunk = sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in fresh(folder).parameters())
    assert shrunk == (pruned and method == "earlycrop-s")
    run = trainer(tmp_path / "resumed", model, written_after, **more)
    run.train(resume_from_checkpoint=str(checkpoint))
    torch.testing.assert_close(weights(model), weights(whole), rtol=0, atol=0)
    require_live(run.optimizer.optimizer, model)
    assert written_after.pruner.epoch == EPOCHS
    assert written_after.pruner.event.record() == callback.pruner.event.record() or not pruned
    zeros = [sum(int((p == 0).sum()) for p in m.parameters() if p.ndim > 1) for m in (model, whole)]
    assert zeros[0] == zeros[1]
    assert (zeros[0] > 500) == (method == "earlycrop-u")


def test_a_cut_is_proved_in_full_precision_where_training_is_not(folder: Path, tmp_path: Path) -> None:
    model, callback = fresh(folder), callback_of("earlycrop-s")
    trainer(tmp_path, model, callback, bf16=True).train()
    assert callback.pruner.event.difference <= 1e-5
    seen: list[torch.dtype] = []
    model.classifier.register_forward_hook(lambda m, inputs, output: seen.append(output.dtype))
    model(input_ids=torch.ones(1, 4, dtype=torch.long))
    assert seen == [torch.bfloat16]  # and training goes on in half


def test_what_a_trainer_cannot_do_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "eval_strategy": "no", "save_strategy": "no"}
    with pytest.raises(ValueError, match="leave out load_best_model_at_end"):
        trainer(tmp_path, fresh(folder), callback_of("earlycrop-s"), **best).train()
    from earlycrop.integrations.transformers import PruningCallback

    with pytest.raises(ValueError, match=r"ltr trains .* epochs in all: use a loop of your own"):
        trainer(tmp_path, fresh(folder), PruningCallback("ltr", 0.5)).train()
    with pytest.raises(earlycrop.SavingError, match="there is no file"):
        callback_of("earlycrop-s").resume(fresh(folder), tmp_path)
    trainer(tmp_path, fresh(folder), callback_of("earlycrop-u"), save_strategy="epoch").train()
    with pytest.raises(ValueError, match="call resume"):
        trainer(tmp_path, fresh(folder), callback_of("earlycrop-u")).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-6")
        )


def test_scoring_moves_neither_the_order_of_training_nor_dropout(folder: Path, tmp_path: Path) -> None:
    models, callback = [fresh(folder), fresh(folder)], callback_of("earlycrop-u", trigger=EPOCHS)
    trainer(tmp_path, models[0], transformers.TrainerCallback()).train()
    trainer(tmp_path, models[1], callback).train()
    held = models[1].state_dict()
    for name, weight in models[0].state_dict().items():
        kept = held[name] != 0
        torch.testing.assert_close(weight[kept], held[name][kept], rtol=0, atol=0)


class Small(nn.Module):
    """A network that a Trainer trains in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = self.layers(x)
        return transformers.utils.ModelOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


def points() -> list[dict[str, Any]]:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    return [{"x": t, "labels": int(t[0] > 0)} for t in x]


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(points())


class Counted(Stream):
    def __len__(self) -> int:
        return len(points())


def small_trainer(folder: Path, model: Any, *callbacks: Any, data: Any = None, **changed: Any) -> Any:
    given = {
        "output_dir": str(folder), "num_train_epochs": 3, "per_device_train_batch_size": 4, "use_cpu": True,
        "report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no",
        "dataloader_pin_memory": False, **changed,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(**given)
    return transformers.Trainer(model, arguments, train_dataset=data or points(), callbacks=list(callbacks))


def small_callback(method: str = "earlycrop-s", **changed: Any) -> Any:
    return callback_of(method, **{"of": "weights", "limits": earlycrop.Limits(), "sparsity": 0.5, **changed})


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four steps an epoch: 4 from before the cut, 8 and 12 of a shrunk model."""
    folder = tmp_path_factory.mktemp("small")
    small_trainer(folder, Small(), small_callback(), save_strategy="epoch").train()
    return folder


def test_data_without_a_length_are_refused_and_those_with_one_pruned(tmp_path: Path) -> None:
    model = Small()
    start = weights(model)
    with pytest.raises(ValueError, match=r"plans in epochs, and these data have no length: give the dataset a __len__"):
        small_trainer(tmp_path, model, small_callback(), data=Stream(), max_steps=12).train()
    torch.testing.assert_close(weights(model), start, rtol=0, atol=0)
    callback = small_callback()
    small_trainer(tmp_path, model, callback, data=Counted(), max_steps=12).train()
    assert (callback.pruner.total_epochs, callback.pruner.epoch, callback.pruner.event.epoch) == (3, 3, CUT)


def test_a_trainer_prunes_a_model_once(tmp_path: Path) -> None:
    callback, model = small_callback(), Small()
    run = small_trainer(tmp_path, model, callback)
    run.train()
    pruned, event = weights(model), callback.pruner.event
    for again in (run, small_trainer(tmp_path, model, callback)):
        with pytest.raises(ValueError, match=r"has pruned this model already.* or go on from a checkpoint by resume\("):
            again.train()
    torch.testing.assert_close(weights(model), pruned, rtol=0, atol=0)
    assert callback.pruner.event is event
    small_trainer(tmp_path, other := Small(), callback).train()  # with a fresh model it may begin anew
    assert size(other) == size(model)


def test_a_training_that_did_not_come_to_its_pruning_begins_anew(tmp_path: Path) -> None:
    callback, model = small_callback(), Small()
    run = small_trainer(tmp_path, model, callback)
    stop = transformers.TrainerCallback()
    stop.on_epoch_end = lambda args, state, control, **held: setattr(control, "should_training_stop", True)
    run.add_callback(stop)
    run.train()
    assert (callback.pruner.epoch, callback.pruner.event) == (1, None)
    run.remove_callback(stop)
    run.train()
    assert [e.epoch for e in callback.pruner.events] == [CUT]


def test_two_callbacks_in_a_trainer_are_refused(tmp_path: Path) -> None:
    model = Small()
    said = "two PruningCallbacks in one Trainer would both prune its model: give it one"
    with pytest.raises(ValueError, match=said):
        small_trainer(tmp_path, model, small_callback(), small_callback("earlycrop-u"))
    run = small_trainer(tmp_path, model, small_callback())
    run.add_callback(small_callback())
    with pytest.raises(ValueError, match=said):
        run.train()
    assert size(model) == size(Small())


def test_a_structured_checkpoint_that_was_not_resumed_is_a_sentence(checkpoints: Path, tmp_path: Path) -> None:
    """So is one of another size than ``resume``'s; a Trainer loads the weights before training begins."""
    for resumed, begun in ((None, 8), (8, 4), (4, 8)):
        callback, model = small_callback(), Small()
        if resumed:
            callback.resume(model, checkpoints / f"checkpoint-{resumed}")
        run, before = small_trainer(tmp_path, model, callback), weights(model)
        with pytest.raises(
            ValueError, match=r"in the checkpoint and .* in the model: go on .* by resume\(fresh_model, "
        ):
            run.train(resume_from_checkpoint=str(checkpoints / f"checkpoint-{begun}"))
        torch.testing.assert_close(weights(model), before, rtol=0, atol=0)


def test_what_is_resumed_is_what_is_trained_on(checkpoints: Path, tmp_path: Path) -> None:
    callback, model = small_callback(), Small()
    callback.resume(model, checkpoints / "checkpoint-8")
    run, small = small_trainer(tmp_path, model, callback), size(model)
    for given, step in ((None, 0), (str(checkpoints / "checkpoint-12"), 12)):
        said = (
            rf"given the checkpoint of step 8, and training begins at step {step}: call train\(resume_from_checkpoint"
        )
        with pytest.raises(ValueError, match=said):
            run.train(resume_from_checkpoint=given)
    run.train(resume_from_checkpoint=str(checkpoints / "checkpoint-8"))
    assert [e.epoch for e in callback.pruner.events] == [CUT]
    assert size(model) == small < size(Small())


def test_a_checkpoint_of_another_method_is_refused(checkpoints: Path) -> None:
    callback, model = small_callback("earlycrop-u"), Small()
    with pytest.raises(ValueError, match=r"checkpoint-8 was written with earlycrop-s, and .* prunes with earlycrop-u"):
        callback.resume(model, checkpoints / "checkpoint-8")
    assert size(model) == size(Small())


def test_load_points_to_what_lies_beside_a_file_of_another_s(checkpoints: Path) -> None:
    checkpoint, fresh_one = checkpoints / "checkpoint-8", Small()
    with pytest.raises(earlycrop.SavingError, match=r"not written by earlycrop: load '.*8.earlycrop', which was"):
        earlycrop.load(checkpoint, fresh_one)
    assert size(earlycrop.load(checkpoint / "earlycrop", fresh_one)) < size(Small())


# --- lightning


def lit(folder: Path, dropout: float = 0.1) -> Any:
    lightning = pytest.importorskip("lightning.pytorch")

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = fresh(folder, dropout)

        def training_step(self, batch: Any, index: int) -> dict[str, Tensor]:
            told = self.network(**batch).loss
            self.log("told", told)
            return {"loss": told}

        def validation_step(self, batch: Any, index: int) -> None:
            pass

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), 3e-3, weight_decay=0.0)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 48)
            # at steps: Lightning's checkpoints of an epoch's end are from before a scheduler's step of that epoch
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return Lit()


def fit(module: Any, where: Path, callback: Any, checkpoint: Path | None = None, late: bool = True, **more: Any) -> Any:
    import lightning.pytorch as lightning

    saver = lightning.callbacks.ModelCheckpoint(
        where, "{epoch}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=late
    )
    given = {"gradient_clip_val": 1.0, **more}
    run = lightning.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, callbacks=[callback, saver], logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **given,
    )  # fmt: skip
    data = DataLoader(examples(), 8, shuffle=False, collate_fn=transformers.default_data_collator)
    run.fit(module, data, DataLoader(examples()[:1], 1, collate_fn=transformers.default_data_collator),
            ckpt_path=checkpoint, **({} if checkpoint is None else {"weights_only": True}))  # fmt: skip
    return run


def lit_callback(method: str, **changed: Any) -> Any:
    pytest.importorskip("lightning.pytorch")
    from earlycrop.integrations.lightning import PruningCallback

    return PruningCallback(method, **{**options(method), **changed})


LIGHTNING = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*already been called"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


def marked(test: Any) -> Any:
    for mark in LIGHTNING:
        test = mark(test)
    return test


@marked
@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u", pytest.param("magnitude-s", marks=SLOW)])
def test_a_lightning_run_is_that_of_a_loop_of_one_s_own(method: str, folder: Path, tmp_path: Path) -> None:
    module, callback = lit(folder, 0), lit_callback(method, batches=scored())
    run = fit(module, tmp_path, callback)
    assert (callback.pruner.event.epoch, callback.pruner.epoch) == (CUT, EPOCHS)
    require_live(run.optimizers[0], module)
    assert module.trainer is run

    own = lit(folder, 0)
    held = own.configure_optimizers()
    optimizer, scheduler = held["optimizer"], held["lr_scheduler"]["scheduler"]
    pruner = earlycrop.Pruner(own, optimizer, lambda m, b: loss(m.network, b), method, epochs=EPOCHS, **options(method))
    pruner.step(scored())
    for _ in range(EPOCHS):
        own.train()
        for batch in DataLoader(examples(), 8, collate_fn=transformers.default_data_collator):
            optimizer.zero_grad()
            loss(own.network, batch).backward()
            nn.utils.clip_grad_norm_(own.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        pruner.step(scored())
    torch.testing.assert_close(weights(module), weights(own), rtol=1e-4, atol=1e-6)


@marked
@pytest.mark.parametrize(
    ("method", "late", "at"),
    [
        pytest.param("earlycrop-s", True, 1, marks=SLOW),
        ("earlycrop-s", True, 2),
        ("earlycrop-s", False, 2),
        ("earlycrop-u", True, 3),
    ],
)
def test_a_lightning_run_goes_on_from_a_checkpoint(
    method: str, late: bool, at: int, folder: Path, tmp_path: Path
) -> None:
    """Gradients of two batches; a checkpoint that is not "late" is from before the epoch's pruning."""
    whole, callback = lit(folder, 0), lit_callback(method)
    fit(whole, tmp_path, callback, late=late, accumulate_grad_batches=2)
    again, module = lit_callback(method), lit(folder, 0)
    checkpoint = tmp_path / f"epoch={at - 1}.ckpt"
    run = fit(module, tmp_path / "resumed", again, checkpoint, late, accumulate_grad_batches=2)
    torch.testing.assert_close(weights(module), weights(whole), rtol=0, atol=0)
    require_live(run.optimizers[0], module)
    assert again.pruner.epoch == callback.pruner.epoch == EPOCHS
    assert [e.epoch for e in again.pruner.events] == [CUT]


@marked
def test_a_checkpoint_of_another_making_is_refused(folder: Path, tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    fit(lit(folder), tmp_path, lightning.Callback())
    with pytest.raises(ValueError, match=r"epoch=0.ckpt was written without a PruningCallback"):
        fit(lit(folder), tmp_path / "resumed", lit_callback("earlycrop-s"), tmp_path / "epoch=0.ckpt")


@marked
def test_what_lightning_cannot_do_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    lit_callback("earlycrop-s")
    from earlycrop.integrations.lightning import PruningCallback

    with pytest.raises(ValueError, match=r"ltr trains .* epochs in all: use a loop of your own"):
        fit(lit(folder), tmp_path, PruningCallback("ltr", 0.5))
    module = lit(folder)
    module.automatic_optimization = False
    with pytest.raises(ValueError, match=r"give PruningCallback a loss\(module, batch\)"):
        fit(module, tmp_path, lit_callback("earlycrop-s"), gradient_clip_val=None)


def lit_small() -> Any:
    lightning = pytest.importorskip("lightning.pytorch")

    class LitSmall(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Small()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.network(**batch).loss

        test_step = predict_step = training_step

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2)

    return LitSmall()


def lit_small_callback(method: str = "earlycrop-s", **changed: Any) -> Any:
    return lit_callback(method, **{"of": "weights", "limits": earlycrop.Limits(), "sparsity": 0.5, **changed})


def small_loader() -> Any:
    return DataLoader(points(), 4, collate_fn=transformers.default_data_collator)


def lit_trainer(where: Path, *callbacks: Any, epochs: int = 3, **changed: Any) -> Any:
    import lightning.pytorch as lightning

    saver = lightning.callbacks.ModelCheckpoint(where, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    given = {"logger": False, **changed}
    return lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[*callbacks, saver], enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **given,
    )  # fmt: skip


@marked
@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u"])
def test_a_fit_that_goes_on_prunes_nothing_more(method: str, tmp_path: Path) -> None:
    callback, module = lit_small_callback(method), lit_small()
    run = lit_trainer(tmp_path, callback)
    run.fit(module, small_loader())
    event, small = callback.pruner.event, size(module)
    gone = {name: p == 0 for name, p in module.named_parameters()}
    run.fit_loop.max_epochs = 6
    run.fit(module, small_loader())
    assert [e.record() for e in callback.pruner.events] == [event.record()]
    assert (callback.pruner.epoch, size(module)) == (6, small)
    require_live(run.optimizers[0], module)
    for name, p in module.named_parameters():
        assert not p[gone[name]].any()  # by the optimizer of the second fit, too
    assert (small < size(lit_small())) == (method == "earlycrop-s")
    pruned = weights(module)
    with pytest.raises(ValueError, match=r"has pruned this model already.* go on .* by giving the Trainer a fresh mod"):
        lit_trainer(tmp_path / "other", callback).fit(module, small_loader())
    torch.testing.assert_close(weights(module), pruned, rtol=0, atol=0)


@marked
def test_a_pruning_that_a_fit_had_not_come_to_is_of_the_next(tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    stop = lightning.Callback()
    stop.on_train_epoch_end = lambda trainer, module: setattr(trainer, "should_stop", True)
    callback, module = lit_small_callback(), lit_small()
    run = lit_trainer(tmp_path, callback, stop)
    run.fit(module, small_loader())
    assert (callback.pruner.epoch, callback.pruner.event) == (1, None)
    run.callbacks.remove(stop)
    run.should_stop = False
    run.fit(module, small_loader())
    assert (callback.pruner.epoch, [e.epoch for e in callback.pruner.events]) == (3, [CUT])
    assert size(module) < size(lit_small())
    late = lit_trainer(tmp_path / "late", lightning.Callback(), epochs=1)
    late.fit(dense := lit_small(), small_loader())
    late.callbacks.append(lit_small_callback())
    late.fit_loop.max_epochs = 3
    with pytest.raises(ValueError, match="in epoch 2, and this PruningCallback was not there: make a new"):
        late.fit(dense, small_loader())


@marked
def test_a_shrunk_checkpoint_is_evaluated_by_a_fresh_module(tmp_path: Path) -> None:
    module = lit_small()
    run = lit_trainer(tmp_path, lit_small_callback())
    run.fit(module, small_loader())
    for stage in ("validate", "test", "predict"):
        again, callback = lit_small(), lit_small_callback()
        type(again).validation_step = type(again).training_step  # one that fit would look for data of
        other = lit_trainer(tmp_path / stage, callback)
        getattr(other, stage)(again, small_loader(), ckpt_path=tmp_path / "epoch=2.ckpt", weights_only=True)
        torch.testing.assert_close(weights(again), weights(module), rtol=0, atol=0)
        assert not again._load_state_dict_pre_hooks
        other.fit(fresh_one := lit_small(), small_loader())  # that was no resumption
        assert [e.epoch for e in callback.pruner.events] == [CUT]
        assert size(fresh_one) == size(module)
    with pytest.raises(ValueError, match=r"in the checkpoint and .* go on .* by giving the Trainer a fresh module"):
        run.test(module, small_loader(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert not module._load_state_dict_pre_hooks


@marked
def test_a_lightning_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    lit_trainer(tmp_path, lit_small_callback()).fit(lit_small(), small_loader())
    module, run = lit_small(), lit_trainer(tmp_path / "other", lit_small_callback("earlycrop-u"))
    with pytest.raises(ValueError, match=r"epoch=2.ckpt was written with earlycrop-s, and .* prunes with earlycrop-u"):
        run.fit(module, small_loader(), ckpt_path=tmp_path / "epoch=2.ckpt", weights_only=True)
    assert size(module) == size(lit_small())


@marked
def test_a_training_step_has_its_trainer_and_logs_nothing_while_it_is_scored(tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    class Lit(type(lit_small())):  # type: ignore[misc]
        seen: list[Any] = []  # noqa: RUF012

        def training_step(self, batch: Any, index: int) -> Tensor:
            rate = self.optimizers().param_groups[0]["lr"] + self.lr_schedulers().get_last_lr()[0]
            self.seen.append((self.trainer.current_epoch, self.current_epoch, rate))
            self.log("told", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")
            self.logger.log_metrics({"own": 1.0})
            return super().training_step(batch, index)

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)]

    class Kept(lightning.loggers.logger.DummyLogger):
        metrics: list[Any] = []  # noqa: RUF012

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.metrics.append(metrics)

    module, callback, logger = Lit(), lit_small_callback(), Kept()
    run = lit_trainer(tmp_path, callback, logger=logger)
    run.fit(module, small_loader())
    assert callback.pruner.event.epoch == CUT
    steps = 3 * len(small_loader())
    assert len(module.seen) > steps  # in training, and to trace and to score
    assert set(module.seen) == {(epoch, epoch, 0.02) for epoch in range(3)}
    assert sum("own" in m for m in logger.metrics) == steps
    assert [m["told"] for m in logger.metrics if "told" in m] == [len(small_loader())] * 3
    assert module.trainer is run
    assert (run.logger, run.barebones) == (logger, False)


@marked
def test_several_loaders_are_pruned_on_batches_that_are_given(tmp_path: Path) -> None:
    class Two(type(lit_small())):  # type: ignore[misc]
        def training_step(self, batch: Any, index: int) -> Tensor:
            return super().training_step(batch["a"], index) + super().training_step(batch["b"], index)

    loaders = {"a": small_loader(), "b": small_loader()}
    with pytest.raises(ValueError, match="there are several training loaders: give PruningCallback batches"):
        lit_trainer(tmp_path, lit_small_callback()).fit(Two(), loaders)
    batch = next(iter(small_loader()))
    callback = lit_small_callback(batches=[{"a": batch, "b": batch}])
    lit_trainer(tmp_path, callback).fit(Two(), loaders)
    assert callback.pruner.event.epoch == CUT


def test_neither_library_is_imported_before_it_is_used() -> None:
    code = "import sys, earlycrop, earlycrop.integrations; print({'transformers', 'lightning'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"
