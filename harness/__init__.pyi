"""What the package exports, for type checkers and editors: at run time names are imported on first use."""

from harness.benchmarks.benchmark import Benchmark as Benchmark
from harness.benchmarks.benchmark import load_benchmark as load_benchmark
from harness.comparison.command import compare as compare
from harness.comparison.describe import describe as describe
from harness.comparison.describe import list_benchmarks as list_benchmarks
from harness.comparison.describe import list_proxies as list_proxies
from harness.comparison.scores import load_scores as load_scores
from harness.comparison.scores import score_benchmark as score_benchmark
from harness.correlation import Correlation as Correlation
from harness.correlation import correlate as correlate
from harness.engine.api import score as score
from harness.engine.store import ScoreStore as ScoreStore
from harness.engine.store import open_store as open_store
from harness.errors import HarnessError as HarnessError
from harness.probes.base import Probe as Probe
from harness.probes.base import Subject as Subject
from harness.probes.base import Unscorable as Unscorable
from harness.proxies.base import Proxy as Proxy

__version__: str
