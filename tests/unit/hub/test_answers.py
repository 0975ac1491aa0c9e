"""The types for programs beside the models of the API: the same members."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from hub import answers
from hub.api import many_models, models, webhook_models

SAME: dict[Any, type[BaseModel]] = {
    answers.Error: models.ErrorView,
    answers.Delivery: models.DeliveryView,
    answers.KillState: models.KillStateView,
    answers.Agent: models.AgentView,
    answers.AgentPage: models.AgentPage,
    answers.Spawned: models.SpawnedView,
    answers.SpawnOutcome: models.SpawnOutcome,
    answers.SpawnedMany: models.SpawnManyView,
    answers.Placed: many_models.PlacedView,
    answers.KillAsked: models.KillView,
    answers.KillOutcome: many_models.KillOutcome,
    answers.KilledMany: many_models.KillManyView,
    answers.LogPiece: models.LogView,
    answers.Sent: models.SentView,
    answers.Resumed: models.ResumedView,
    answers.Change: models.ChangeView,
    answers.Freeze: models.FreezeView,
    answers.Peer: models.PeerView,
    answers.Invite: models.InviteView,
    answers.Webhook: webhook_models.WebhookView,
    answers.AddedWebhook: webhook_models.AddedWebhookView,
    answers.WebhookTest: webhook_models.WebhookTestView,
    answers.RemovedWebhook: webhook_models.RemovedWebhookView,
}


@pytest.mark.parametrize(("typed", "model"), SAME.items(), ids=[kind.__name__ for kind in SAME])
def test_a_type_has_the_members_of_its_model(typed: Any, model: type[BaseModel]) -> None:
    described = {field.alias or name for name, field in model.model_fields.items()}
    assert typed.__required_keys__ | typed.__optional_keys__ == described
    may_be_missing = {field.alias or name for name, field in model.model_fields.items() if not field.is_required()}
    assert typed.__optional_keys__ <= may_be_missing


def test_every_type_has_a_model() -> None:
    typed = {value for value in vars(answers).values() if hasattr(value, "__required_keys__")}
    assert typed == set(SAME)
