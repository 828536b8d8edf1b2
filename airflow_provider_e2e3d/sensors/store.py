"""What the sensors of this provider share."""

from __future__ import annotations

import datetime as dt
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSensorTimeout

from airflow_provider_e2e3d.exceptions import stage_failed
from airflow_provider_e2e3d.templates import AuthoredTemplates
from airflow_provider_e2e3d.triggers.polling import NotReady, PollingTrigger
from e2e3d_stages.contract.messages import Failure, Infrastructure, StageError, now

if TYPE_CHECKING:
    from airflow.sdk import Context


class StoreSensor(AuthoredTemplates, BaseSensorOperator):
    """Waits for something to lie in a store: in the triggerer, or in a worker in `mode` poke or reschedule.

    A store that does not answer is asked again until `timeout`; what cannot come true fails at once.

    :param profile: name of the profile whose connection opens the store. (templated)
    :param deferrable: wait in the triggerer; Airflow's default when not given.
    """

    template_fields: Sequence[str] = ("profile",)

    def __init__(self, *, profile: str = "local", deferrable: bool | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("poke_interval", 30)
        super().__init__(**kwargs)
        self.profile = profile
        self.deferrable = deferrable
        self._missing = ""

    @abstractmethod
    def trigger(self, **common: Any) -> PollingTrigger:
        """What looks: `common` is every such trigger's own."""

    def execute(self, context: Context) -> Any:
        """Look at once; then wait."""
        deferrable = self.deferrable
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        if not deferrable:
            try:
                return super().execute(context)
            except AirflowSensorTimeout as error:
                raise AirflowSensorTimeout(f"{error} {self._missing}") from error
        looked = self.poke(context)
        if looked:
            return looked.xcom_value
        self.defer(trigger=self._trigger(), method_name=self.resume.__name__)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        try:
            return PokeReturnValue(is_done=True, xcom_value=self._trigger().look())
        except NotReady as error:
            self._missing = str(error)
            self.log.info("%s", error)
        except Infrastructure as error:
            self._missing = f"{error.message} {error.hint}"
            self.log.warning("%s", self._missing)
        except StageError as error:
            raise stage_failed(Failure.of(error, 0)) from error
        return PokeReturnValue(is_done=False)

    def resume(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after the trigger's last look."""
        if "failure" in event:
            raise stage_failed(Failure.model_validate(event["failure"]))
        if "missing" in event:
            raise AirflowSensorTimeout(f"Waited for {self.timeout:g} s in vain. {event['missing']}")
        return event["found"]

    def _trigger(self) -> PollingTrigger:
        deadline = now() + dt.timedelta(seconds=self.timeout)
        return self.trigger(profile=self.profile, poll_seconds=self.poke_interval, deadline=deadline.isoformat())
