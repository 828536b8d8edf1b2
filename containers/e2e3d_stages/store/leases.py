"""When an attempt that somebody holds is nobody's any more.

By observation, as in DynamoDB's lock client
(https://aws.amazon.com/blogs/database/building-distributed-locks-with-the-dynamodb-lock-client/) and in Kubernetes'
leader election (https://pkg.go.dev/k8s.io/client-go/tools/leaderelection): who holds it changes its record again and
again; who wants it sees the same record for as long as the lease, by a clock of its own. The clocks of two machines
are never compared, so they may tell any time.
"""

from __future__ import annotations

import time

# Who holds an attempt changes its record every 15 s.
LEASE_SECONDS = 90.0
# Between two looks. After a longer pause of the store, or of who looks, its holder first gets the time to be heard of.
LONGEST_GAP_SECONDS = 30.0


class Watch:
    """What one process saw of an attempt that another holds. A new process starts with a watch of its own.

    :param lease_seconds: how long it must see the same.
    """

    def __init__(self, lease_seconds: float | None = None) -> None:
        self._lease = LEASE_SECONDS if lease_seconds is None else lease_seconds
        self._record: object = None
        self._since = self._looked = 0.0

    def is_over(self, record: object) -> bool:
        """Whether this record, which the store gave just now, was seen unchanged for the whole lease."""
        moment = time.monotonic()
        if record != self._record or moment - self._looked > LONGEST_GAP_SECONDS:
            self._record, self._since = record, moment
        self._looked = moment
        return moment - self._since >= self._lease
