"""[core] asset_manager_class: no event of an asset is left behind (Airflow 3.4 has upstream's own fix, #70972).

The scheduler of Airflow 3.3 gives a run the events between the `run_after` of the consumer's previous run and the time
of the queue's row, and then deletes the row. An event that came after the row, or was committed after the run, is
outside. Here, the time of an event and of its row is taken while the rows of the consumers in the table `dag` are
locked. The scheduler locks the same rows while it creates runs: so each event is later than every run that exists, and
no later than its row in the queue.
"""

from datetime import UTC, datetime, timedelta

from airflow.assets import manager
from airflow.models.asset import AssetDagRunQueue
from airflow.utils.types import DagRunType
from sqlalchemy import func, select, update


class LockingAssetManager(manager.AssetManager):
    """Airflow's asset manager, which queues the consumers of an event under the scheduler's lock."""

    @classmethod
    def _queue_dagruns(cls, *, asset_id, dags_to_queue, partition_key, event, session, **others) -> None:
        dags = sorted(dag.dag_id for dag in dags_to_queue if dag.timetable_partitioned is not True)
        # Partitioned events reference their runs as in Airflow 3.4.
        locked = bool(dags) and partition_key is None
        if locked:
            event.timestamp = cls._lock(dags, session)
        super()._queue_dagruns(
            asset_id=asset_id,
            dags_to_queue=dags_to_queue,
            partition_key=partition_key,
            event=event,
            session=session,
            **others,
        )
        if locked:
            rows = AssetDagRunQueue.asset_id == asset_id, AssetDagRunQueue.target_dag_id.in_(dags)
            session.execute(update(AssetDagRunQueue).where(*rows).values(created_at=event.timestamp))

    @staticmethod
    def _lock(dags: list[str], session):
        """Lock the consumers until the transaction ends, and return a time after their runs and rows of the queue."""
        # These modules import airflow.assets.manager, which is importing this module.
        from airflow.models.dag import DagModel
        from airflow.models.dagrun import DagRun

        # In one order, so that two events do not wait for each other.
        session.execute(
            select(DagModel.dag_id).where(DagModel.dag_id.in_(dags)).order_by(DagModel.dag_id).with_for_update()
        )
        runs = select(func.max(DagRun.run_after)).where(
            DagRun.dag_id.in_(dags), DagRun.run_type == DagRunType.ASSET_TRIGGERED
        )
        queue = select(func.max(AssetDagRunQueue.created_at)).where(AssetDagRunQueue.target_dag_id.in_(dags))
        # The clock may have been set back, or be that of another API server.
        before = [time for time in (session.scalar(runs), session.scalar(queue)) if time is not None]
        return max([datetime.now(UTC), *(time + timedelta(microseconds=1) for time in before)])


# With upstream's fix a row of the queue references its event, and this module has nothing left to do.
AssetManager = manager.AssetManager if "asset_event_id" in AssetDagRunQueue.__table__.columns else LockingAssetManager
