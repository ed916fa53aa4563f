"""Events of assets and the runs that consume them, with Airflow's own models and scheduler.

On SQLite, which has no locks: this tests the times. The scenario `delivery` has MySQL, and many events at once.
"""

import importlib
from datetime import UTC, datetime, timedelta

import asset_delivery
import pytest
from airflow.assets import manager
from airflow.models import import_all_models
from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel, DagScheduleAssetReference
from airflow.models.base import Base
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

CONSUMERS = ("first", "second")


@pytest.fixture
def session():
    engine = create_engine("sqlite://")
    import_all_models()
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        asset = AssetModel(name="asset", uri="asset", group="asset", extra={})
        session.add(asset)
        session.flush()
        for name in CONSUMERS:
            session.add(DagModel(dag_id=name, is_paused=False, is_stale=False, bundle_name="dags-folder"))
            session.flush()
            session.add(DagScheduleAssetReference(asset_id=asset.id, dag_id=name))
        session.commit()
        yield session


def register(session):
    asset = session.scalar(select(AssetModel))
    event = asset_delivery.AssetManager.register_asset_change(asset=asset, session=session)
    session.commit()
    return event


def rows(session):
    return session.scalars(select(AssetDagRunQueue).order_by(AssetDagRunQueue.target_dag_id)).all()


def test_an_event_that_waits_with_another_is_no_later_than_the_row_of_the_queue(session):
    first, second = register(session), register(session)
    assert first.timestamp < second.timestamp
    assert [(row.target_dag_id, row.created_at) for row in rows(session)] == [
        (name, second.timestamp) for name in CONSUMERS
    ]


def test_an_event_is_later_than_the_last_run_even_if_the_clock_was_set_back(session):
    ahead = datetime.now(UTC) + timedelta(hours=1)
    session.add(DagRun(dag_id="second", run_id="ahead", run_type="asset_triggered", run_after=ahead))
    session.commit()
    assert register(session).timestamp == ahead + timedelta(microseconds=1)
    assert {row.created_at for row in rows(session)} == {ahead + timedelta(microseconds=1)}


def test_an_event_does_not_move_the_row_of_an_earlier_one_back_if_the_clock_was_set_back(session):
    first, ahead = register(session), datetime.now(UTC) + timedelta(hours=1)
    first.timestamp = ahead
    for row in rows(session):
        row.created_at = ahead
    session.commit()
    second = register(session)
    assert second.timestamp > first.timestamp
    assert {row.created_at for row in rows(session)} == {second.timestamp}


def test_a_paused_consumer_gets_no_row(session):
    session.get(DagModel, "first").is_paused = True
    session.commit()
    register(session)
    assert [row.target_dag_id for row in rows(session)] == ["second"]
    assert len(session.scalars(select(AssetEvent)).all()) == 1


def test_with_the_fix_of_upstream_airflow_has_its_own_asset_manager_again(monkeypatch):
    assert asset_delivery.AssetManager is asset_delivery.LockingAssetManager
    monkeypatch.setattr(AssetDagRunQueue.__table__, "columns", {"asset_event_id": None})
    try:
        assert importlib.reload(asset_delivery).AssetManager is manager.AssetManager
    finally:
        monkeypatch.undo()
        importlib.reload(asset_delivery)
