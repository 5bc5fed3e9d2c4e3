"""The callback in real runs of Lightning's Trainer: the same as a hand-written loop, stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import earlycrop
from tests.integrations.callbacks import (
    CUT,
    EPOCHS,
    SLOW,
    Small,
    examples,
    fresh,
    loss,
    options,
    require_live,
    scored,
    size,
    transformers,
    weights,
)
from tests.integrations.lightning_runs import (
    QUIET,
    lit_callback,
    lit_small,
    lit_small_callback,
    lit_trainer,
    small_loader,
)
from tests.tasks.tiny_data import tiny_bert

pytestmark = QUIET


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model") / "bert")


def lit(folder: Path, dropout: float = 0.1) -> Any:
    lightning = pytest.importorskip("lightning.pytorch")

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = fresh(folder, dropout)

        def training_step(self, batch: Any, index: int) -> dict[str, Tensor]:
            batch_loss = self.network(**batch).loss
            self.log("training_loss", batch_loss)
            return {"loss": batch_loss}

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


@pytest.mark.parametrize(
    "method", ["earlycrop-s", *(pytest.param(m, marks=SLOW) for m in ("earlycrop-u", "magnitude-s"))]
)
def test_a_lightning_run_equals_a_hand_written_loop(method: str, folder: Path, tmp_path: Path) -> None:
    module, callback = lit(folder, 0), lit_callback(method, batches=scored())
    run = fit(module, tmp_path, callback)
    assert (callback.pruner.event.epoch, callback.pruner.epoch) == (CUT, EPOCHS)
    require_live(run.optimizers[0], module)
    assert module.trainer is run

    reference = lit(folder, 0)
    configured = reference.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    pruner = earlycrop.Pruner(
        reference, optimizer, lambda m, b: loss(m.network, b), method, epochs=EPOCHS, **options(method)
    )
    pruner.step(scored())
    for _ in range(EPOCHS):
        reference.train()
        for batch in DataLoader(examples(), 8, collate_fn=transformers.default_data_collator):
            optimizer.zero_grad()
            loss(reference.network, batch).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        pruner.step(scored())
    torch.testing.assert_close(weights(module), weights(reference), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "late", "at"),
    [
        pytest.param("earlycrop-s", True, 1, marks=SLOW),
        pytest.param("earlycrop-s", True, 2, marks=SLOW),
        ("earlycrop-s", False, 2),
        ("earlycrop-u", True, 3),
    ],
)
def test_a_lightning_run_goes_on_from_a_checkpoint(
    method: str, late: bool, at: int, folder: Path, tmp_path: Path
) -> None:
    """Gradients of two batches; a checkpoint that is not "late" is from before the epoch's pruning."""
    uninterrupted, callback = lit(folder, 0), lit_callback(method)
    fit(uninterrupted, tmp_path, callback, late=late, accumulate_grad_batches=2)
    again, module = lit_callback(method), lit(folder, 0)
    checkpoint = tmp_path / f"epoch={at - 1}.ckpt"
    run = fit(module, tmp_path / "resumed", again, checkpoint, late, accumulate_grad_batches=2)
    torch.testing.assert_close(weights(module), weights(uninterrupted), rtol=0, atol=0)
    require_live(run.optimizers[0], module)
    assert again.pruner.epoch == callback.pruner.epoch == EPOCHS
    assert [e.epoch for e in again.pruner.events] == [CUT]


def test_a_checkpoint_without_a_callback_is_refused(folder: Path, tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    fit(lit(folder), tmp_path, lightning.Callback())
    with pytest.raises(ValueError, match=r"epoch=0.ckpt was written without a PruningCallback"):
        fit(lit(folder), tmp_path / "resumed", lit_callback("earlycrop-s"), tmp_path / "epoch=0.ckpt")


def test_unsupported_lightning_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    lit_callback("earlycrop-s")
    from earlycrop.integrations.lightning import PruningCallback

    with pytest.raises(
        ValueError, match=r"ltr trains the model again and again, .*: use a Pruner in a training loop of your own"
    ):
        fit(lit(folder), tmp_path, PruningCallback("ltr", 0.5))
    module = lit(folder)
    module.automatic_optimization = False
    with pytest.raises(ValueError, match=r"give PruningCallback a loss\(module, batch\)"):
        fit(module, tmp_path, lit_callback("earlycrop-s"), gradient_clip_val=None)


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
    with pytest.raises(
        ValueError, match=r"has pruned this model already.* To continue .* give a Trainer a fresh module"
    ):
        lit_trainer(tmp_path / "other", callback).fit(module, small_loader())
    torch.testing.assert_close(weights(module), pruned, rtol=0, atol=0)


def test_a_pruning_that_a_fit_did_not_reach_is_made_in_the_next(tmp_path: Path) -> None:
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
    with pytest.raises(
        ValueError, match="in epoch 2, and this PruningCallback was not there from the beginning: make a new"
    ):
        late.fit(dense, small_loader())


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
    with pytest.raises(ValueError, match=r"in the checkpoint and .* To continue .* give a Trainer a fresh module"):
        run.test(module, small_loader(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert not module._load_state_dict_pre_hooks


def test_a_lightning_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    lit_trainer(tmp_path, lit_small_callback()).fit(lit_small(), small_loader())
    module, run = lit_small(), lit_trainer(tmp_path / "other", lit_small_callback("earlycrop-u"))
    with pytest.raises(ValueError, match=r"epoch=2.ckpt was written with earlycrop-s, and .* prunes with earlycrop-u"):
        run.fit(module, small_loader(), ckpt_path=tmp_path / "epoch=2.ckpt", weights_only=True)
    assert size(module) == size(lit_small())


def test_a_training_step_has_its_trainer_and_logs_nothing_while_it_is_scored(tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    class Lit(type(lit_small())):  # type: ignore[misc]
        seen: list[Any] = []  # noqa: RUF012

        def training_step(self, batch: Any, index: int) -> Tensor:
            rate = self.optimizers().param_groups[0]["lr"] + self.lr_schedulers().get_last_lr()[0]
            self.seen.append((self.trainer.current_epoch, self.current_epoch, rate))
            self.log("steps", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")
            self.logger.log_metrics({"direct": 1.0})
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
    assert sum("direct" in m for m in logger.metrics) == steps
    assert [m["steps"] for m in logger.metrics if "steps" in m] == [len(small_loader())] * 3
    assert module.trainer is run
    assert (run.logger, run.barebones) == (logger, False)


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


def test_the_terms_that_a_training_step_returns_are_scored_each(tmp_path: Path) -> None:
    def terms(network: nn.Module, batch: Any) -> list[Tensor]:
        outputs = network(**batch)
        return [outputs.loss, 1000 * outputs.logits.square().mean()]

    class WithTerms(type(lit_small())):  # type: ignore[misc]
        def training_step(self, batch: Any, index: int) -> dict[str, Any]:
            both = terms(self.network, batch)
            return {"loss": sum(both), "loss_terms": both}

    batches = list(small_loader())[:2]
    module, by_terms, of_the_sum = WithTerms(), Small(), Small()
    fresh_weights = weights(module.network)
    from earlycrop.integrations.lightning import PruningCallback

    callback = PruningCallback("crop-u", sparsity=0.5, batches=batches)
    lit_trainer(tmp_path, callback, epochs=1, max_steps=1).fit(module, small_loader())
    earlycrop.prune(by_terms, terms, batches, "crop", 0.5, structured=False)
    earlycrop.prune(of_the_sum, lambda m, b: sum(terms(m, b)), batches, "crop", 0.5, structured=False)
    for network in (by_terms, of_the_sum):  # all began alike
        kept = {name: t != 0 for name, t in weights(network).items()}
        assert all(torch.equal(t[kept[name]], fresh_weights[name][kept[name]]) for name, t in weights(network).items())
    masks = [
        torch.cat([p.detach().flatten() == 0 for p in n.parameters() if p.ndim > 1])
        for n in (module.network, by_terms, of_the_sum)
    ]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
