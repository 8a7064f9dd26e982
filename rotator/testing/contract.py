"""The behaviours of a sink, all together."""

from rotator.testing.deliveries import Deliveries
from rotator.testing.failures import Failures
from rotator.testing.places import Places
from rotator.testing.secrecy import Secrecy


class SinkContract(Secrecy, Failures, Deliveries, Places):
    """Subclass it, by a name that begins with `Test`, and define the fixture `harness`: each method is one behaviour.

    The name of a behaviour in reports is that of its method; a subclass adds tests of its own, and changes none.
    """
