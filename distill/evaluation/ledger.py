"""The ledger: one row a checkpoint and format, what was gained and what was kept, each against the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from distill.evaluation.timing import Latency
from distill.tasks import LOWER

if TYPE_CHECKING:
    from distill.evaluation.writing import Sample

_SPEED = ("vs eager", "vs same engine")
PADDED = "-padded"  # behind the name of the checkpoint that it is a copy of, in a shape that stock transformers loads


@dataclass
class Row:
    """One checkpoint in one format. `retained`, `p_value` and `agreement` compare with the teacher's own row.

    Where text is written, `agreement` is how much of it is the teacher's own (whole texts, or tokens place by place)
    and `unended` the share of texts that had as many tokens as they may have.
    """

    name: str
    format: str
    metric: str
    score: float
    interval: tuple[float, float]
    n: int
    scores: dict[str, float]
    worst_class: dict[str, Any] | None
    params: int
    bytes: int
    retained: float | None = None
    p_value: float | None = None
    scored_at_batch: int | None = None
    by_class: dict[str, float] = field(default_factory=dict)
    confusion: list[list[int]] | None = None
    calibration: dict[str, Any] | None = None
    latency: list[Latency] = field(default_factory=list)
    memory_mb: float | None = None
    agreement: float | None = None
    unended: float | None = None

    @property
    def merit(self) -> float:
        """The score, with its sign turned where less is better: of two rows the better one has more."""
        return -self.score if self.metric in LOWER else self.score

    @property
    def title(self) -> str:
        """Name and format, as a reader wants them."""
        return self.name if self.format == "transformers" else f"{self.name} · {self.format}"

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {**asdict(self), "interval": list(self.interval)}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Row:
        """A row as report.json tells it. Raises TypeError for words that it doesn't have."""
        latency = [Latency(**spent) for spent in told["latency"]]
        return cls(**{**told, "interval": tuple(told["interval"]), "latency": latency})


@dataclass
class Ledger:
    """Rows, the teacher's first. A latency's two baselines are the teacher in eager torch and on the same engine.

    Of several teachers the first row is that of the first one, and `ensemble` is what they score as one, with the
    parameters and bytes of all, and no latency. `samples` are some of the texts that they write, where they write any;
    they are the data's, and no part of what a report tells.
    """

    rows: list[Row]
    ensemble: Row | None = None
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def told(cls, report: Mapping[str, Any]) -> Ledger:
        """As report.json tells it. Raises TypeError, LookupError for what it can't be."""
        ensemble = report.get("ensemble")
        return cls([Row.from_dict(row) for row in report["rows"]], Row.from_dict(ensemble) if ensemble else None)

    @property
    def teacher(self) -> Row:
        """The row that sizes and latencies are held against: the teacher, or the first, as users run it."""
        return self.rows[0]

    @property
    def reference(self) -> Row:
        """The row that scores are held against: the teacher's, or that of the ensemble."""
        return self.ensemble or self.rows[0]

    @property
    def shown(self) -> list[Row]:
        """The rows of its table: the ensemble's before all others."""
        return [*([self.ensemble] if self.ensemble else []), *self.rows]

    @property
    def last(self) -> Row:
        """The row of what the run made: the last step's checkpoint in its smallest format."""
        return self.rows[place_of_result([row.name for row in self.rows])]

    def ratio_of_size(self, row: Row) -> float:
        """Bytes over the teacher's."""
        return row.bytes / self.teacher.bytes

    def against_eager(self, row: Row, place: int = 0) -> float | None:
        """Median latency over the teacher's in eager torch, None where it was not timed there; `place` is that of the
        batch in the timing settings.
        """
        return _ratio(row, self.teacher, place) if self.teacher.format == "transformers" else None

    def against_same_engine(self, row: Row, place: int = 0) -> float | None:
        """Median latency over the teacher's on the same engine in fp32; None when the teacher was not timed on it."""
        if len(row.latency) <= place:
            return None
        engine = row.latency[place].engine
        for other in self.rows:
            if other.name == self.teacher.name and other.latency and other.latency[place].engine == engine:
                return _ratio(row, other, place)
        return None

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """The table's head and body, as words: what report.md and the terminal show."""
        quality = ["", self.teacher.metric, "95 % interval", "kept", "p", "worst class"]
        size = ["params", "size", "of teacher", "memory"]
        timed = self.teacher.latency
        speed = [word for place in timed for word in (f"ms, batch {place.batch}", *_SPEED, *_writing(place))]
        same = ["as teacher"] * self._compares
        return [*quality, *same, *size, *speed], [self._cells(row, timed) for row in self.shown]

    @property
    def _compares(self) -> bool:
        """Whether texts were held against the teacher's own."""
        return any(row.agreement is not None for row in self.rows)

    def groups(self) -> list[tuple[str, range]]:
        """The columns that belong together, for narrow places."""
        speed = sum(1 + len(_SPEED) + len(_writing(place)) for place in self.teacher.latency)
        kept = 6 + self._compares
        return [
            ("kept", range(1, kept)),
            ("smaller", range(kept, kept + 4)),
            ("faster", range(kept + 4, kept + 4 + speed)),
        ]

    def _cells(self, row: Row, timed: list[Latency]) -> list[str]:
        worst = f"{row.worst_class['name']} {row.worst_class['score']:.3f}" if row.worst_class else "–"
        cells = [
            row.title,
            f"{row.score:.4f}",
            f"{row.interval[0]:.3f}–{row.interval[1]:.3f}",
            "–" if row.retained is None else f"{100 * row.retained:.1f} %",
            "–" if row.p_value is None else f"{row.p_value:.2f}",
            worst,
            *(["–" if row.agreement is None else f"{100 * row.agreement:.1f} %"] * self._compares),
            f"{row.params / 1e6:.2f} M",
            f"{row.bytes / 1e6:.2f} MB",
            f"{self.ratio_of_size(row):.3f}",
            "–" if row.memory_mb is None else f"{row.memory_mb:.0f} MB",
        ]
        for place, teacher in enumerate(timed):
            if len(row.latency) <= place:
                cells += ["–"] * (1 + len(_SPEED) + len(_writing(teacher)))
                continue
            cells += [
                f"{row.latency[place].p50_ms:.{0 if row.latency[place].p50_ms >= 100 else 2}f}",
                _times(self.against_eager(row, place)),
                _times(self.against_same_engine(row, place)),
                *(f"{figure:.1f}" for figure in _writing(row.latency[place]).values()),
            ]
        return cells

    def markdown(self) -> str:
        """The table in Markdown."""
        head, body = self.cells()
        lines = [head, ["---"] * len(head), *body]
        return "\n".join(
            "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in line) + " |" for line in lines
        )

    def __str__(self) -> str:
        return self.markdown()


def place_of_result(names: Sequence[str]) -> int:
    """Which of a run's rows, by their names, is that of what its last step made: none that is only a padded copy."""
    own = [place for place, name in enumerate(names) if not (name.endswith(PADDED) and name[: -len(PADDED)] in names)]
    return own[-1]


def _writing(spent: Latency) -> dict[str, float]:
    """What is told of writing besides, where text was written."""
    told = {"prefill ms": spent.prefill_ms, "tokens/s": spent.tokens_per_second}
    return {name: figure for name, figure in told.items() if figure is not None}


def _ratio(row: Row, baseline: Row, place: int) -> float | None:
    if len(row.latency) <= place or len(baseline.latency) <= place:
        return None
    return row.latency[place].p50_ms / baseline.latency[place].p50_ms


def _times(ratio: float | None) -> str:
    return "–" if not ratio else f"{1 / ratio:.2f}x"
