"""The callback in real runs of a Trainer of transformers: the same as a hand-written loop, stopped and resumed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

import earlycrop
from earlycrop.integrations._callback import draw_batches
from tests.integrations.callbacks import (
    CUT,
    EPOCHS,
    SLOW,
    Small,
    examples,
    fresh,
    loss,
    options,
    points,
    require_live,
    scored,
    size,
    transformers,
    weights,
)
from tests.tasks.tiny_data import tiny_bert

pytestmark = [
    pytest.mark.filterwarnings("ignore:this Bert.* was shrunk"),
    pytest.mark.filterwarnings("ignore:hardly anything is left"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.usefixtures("without_type_checks"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model") / "bert")


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


@pytest.mark.parametrize(
    "method", ["earlycrop-s", *(pytest.param(m, marks=SLOW) for m in ("earlycrop-u", "magnitude-s"))]
)
def test_a_trainer_s_run_equals_a_hand_written_loop(method: str, folder: Path, tmp_path: Path) -> None:
    callback, model = callback_of(method, batches=scored()), fresh(folder, 0)
    run = trainer(tmp_path, model, callback, train_sampling_strategy="sequential")
    run.train()
    event = callback.pruner.event
    assert (event.epoch, callback.pruner.epoch) == (CUT, EPOCHS)
    require_live(run.optimizer.optimizer, model)
    assert run.lr_scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-9)

    reference = fresh(folder, 0)
    optimizer = torch.optim.AdamW(reference.parameters(), 3e-3, weight_decay=0.0)
    steps = EPOCHS * 6
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    pruner = earlycrop.Pruner(reference, optimizer, loss, method, epochs=EPOCHS, **options(method))
    pruner.step(scored())
    for _ in range(EPOCHS):
        reference.train()
        for batch in DataLoader(examples(), 8, collate_fn=transformers.default_data_collator):
            optimizer.zero_grad()
            loss(reference, batch).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        pruner.step(scored())
    assert pruner.event is not None
    assert pruner.event.weight_sparsity == event.weight_sparsity > 0
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "strategy", "at"),
    [
        pytest.param("earlycrop-s", "epoch", 1, marks=SLOW), ("earlycrop-s", "epoch", 2),
        pytest.param("earlycrop-s", "steps", 2, marks=SLOW), pytest.param("earlycrop-u", "epoch", 3, marks=SLOW),
        ("earlycrop-u", "steps", 2),
    ],
)  # fmt: skip
def test_a_trainer_s_run_goes_on_from_a_checkpoint(
    method: str, strategy: str, at: int, folder: Path, tmp_path: Path
) -> None:
    """Gradients of two batches, random order, dropout; a checkpoint "in steps" is from before the epoch's pruning."""
    more = {"gradient_accumulation_steps": 2, "save_strategy": strategy, "save_steps": 3}
    uninterrupted, callback = fresh(folder), callback_of(method)
    trainer(tmp_path, uninterrupted, callback, **more).train()
    assert [e.epoch for e in callback.pruner.events] == [CUT]
    checkpoint = tmp_path / f"checkpoint-{3 * at}"
    written_after = callback_of(method)
    model = written_after.resume(fresh(folder), checkpoint)
    pruned = at > CUT or (at == CUT and strategy == "epoch")
    shrunk = sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in fresh(folder).parameters())
    assert shrunk == (pruned and method == "earlycrop-s")
    run = trainer(tmp_path / "resumed", model, written_after, **more)
    run.train(resume_from_checkpoint=str(checkpoint))
    torch.testing.assert_close(weights(model), weights(uninterrupted), rtol=0, atol=0)
    require_live(run.optimizer.optimizer, model)
    assert written_after.pruner.epoch == EPOCHS
    assert written_after.pruner.event.record() == callback.pruner.event.record() or not pruned
    zeros = [sum(int((p == 0).sum()) for p in m.parameters() if p.ndim > 1) for m in (model, uninterrupted)]
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


def test_unsupported_trainer_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "eval_strategy": "no", "save_strategy": "no"}
    with pytest.raises(ValueError, match="leave out load_best_model_at_end"):
        trainer(tmp_path, fresh(folder), callback_of("earlycrop-s"), **best).train()
    from earlycrop.integrations.transformers import PruningCallback

    with pytest.raises(
        ValueError, match=r"ltr trains the model again and again, .*: use a Pruner in a training loop of your own"
    ):
        trainer(tmp_path, fresh(folder), PruningCallback("ltr", 0.5)).train()
    with pytest.raises(earlycrop.SavingError, match="there is no file"):
        callback_of("earlycrop-s").resume(fresh(folder), tmp_path)
    earlycrop.save_state({"method": "earlycrop-s"}, tmp_path / "earlycrop" / "pruner.safetensors")
    with pytest.raises(earlycrop.SavingError, match=r"was not written by a PruningCallback: give a checkpoint of"):
        callback_of("earlycrop-s").resume(fresh(folder), tmp_path)
    trainer(tmp_path, fresh(folder), callback_of("earlycrop-u"), save_strategy="epoch").train()
    with pytest.raises(ValueError, match=r"call its resume\("):
        trainer(tmp_path, fresh(folder), callback_of("earlycrop-u")).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-6")
        )


def test_scoring_moves_neither_the_order_of_training_nor_dropout(folder: Path, tmp_path: Path) -> None:
    models, callback = [fresh(folder), fresh(folder)], callback_of("earlycrop-u", trigger=EPOCHS)
    trainer(tmp_path, models[0], transformers.TrainerCallback()).train()
    trainer(tmp_path, models[1], callback).train()
    pruned = models[1].state_dict()
    for name, weight in models[0].state_dict().items():
        kept = pruned[name] != 0
        torch.testing.assert_close(weight[kept], pruned[name][kept], rtol=0, atol=0)


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


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four steps an epoch: 4 from before the cut, 8 and 12 of a shrunk model."""
    folder = tmp_path_factory.mktemp("small")
    small_trainer(folder, Small(), small_callback(), save_strategy="epoch").train()
    return folder


def test_data_without_a_length_are_refused_and_those_with_one_pruned(tmp_path: Path) -> None:
    model = Small()
    start = weights(model)
    with pytest.raises(ValueError, match=r"the training data have no length: give the dataset a __len__"):
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
        with pytest.raises(
            ValueError, match=r"has pruned this model already.* To continue from a checkpoint, call resume\("
        ):
            again.train()
    torch.testing.assert_close(weights(model), pruned, rtol=0, atol=0)
    assert callback.pruner.event is event
    small_trainer(tmp_path, other := Small(), callback).train()  # with a fresh model it may begin anew
    assert size(other) == size(model)


def test_a_training_that_did_not_reach_its_pruning_begins_anew(tmp_path: Path) -> None:
    callback, model = small_callback(), Small()
    run = small_trainer(tmp_path, model, callback)
    stop = transformers.TrainerCallback()
    stop.on_epoch_end = lambda args, state, control, **kwargs: setattr(control, "should_training_stop", True)
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


def test_a_structured_checkpoint_that_was_not_resumed_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    """So is one of another size than ``resume``'s; a Trainer loads the weights before training begins."""
    for resumed, begun in ((None, 8), (8, 4), (4, 8)):
        callback, model = small_callback(), Small()
        if resumed:
            callback.resume(model, checkpoints / f"checkpoint-{resumed}")
        run, before = small_trainer(tmp_path, model, callback), weights(model)
        with pytest.raises(
            ValueError, match=r"in the checkpoint and .* in the model\. To continue .* call resume\(fresh_model, "
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


def test_load_points_to_the_file_beside_a_foreign_one(checkpoints: Path) -> None:
    checkpoint, fresh_one = checkpoints / "checkpoint-8", Small()
    with pytest.raises(earlycrop.SavingError, match=r"not written by earlycrop: load '.*8.earlycrop', which was"):
        earlycrop.load(checkpoint, fresh_one)
    assert size(earlycrop.load(checkpoint / "earlycrop", fresh_one)) < size(Small())


def test_neither_library_is_imported_before_it_is_used() -> None:
    code = "import sys, earlycrop, earlycrop.integrations; print({'transformers', 'lightning'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"


def test_data_are_drawn_in_batches_as_the_loader_has_them() -> None:
    rows = TensorDataset(torch.arange(40.0).view(40, 1))
    eights = DataLoader(rows, batch_sampler=BatchSampler(SequentialSampler(rows), 8, drop_last=False))
    assert [len(batch[0]) for batch in draw_batches(eights, None, 0, lambda b: b)] == [8] * 5
    prebatched: Any = [{"x": torch.full((8, 1), float(i))} for i in range(5)]
    batches = list(draw_batches(DataLoader(prebatched, batch_size=None), None, 0, lambda b: b))
    assert sorted(float(batch["x"][0]) for batch in batches) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert all(batch["x"].shape == (8, 1) for batch in batches)
