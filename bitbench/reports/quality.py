"""Quality in full: every text and path, and which methods can be told apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from rich.text import Text

from bitbench.facts.quality import LEAST_CONTEXT_NATS, QualityPass
from bitbench.reports.lines import MIN_WIDTH, Lines
from bitbench.reports.markdown import escaped, table_lines
from bitbench.reports.quality_tasks import task_sections
from bitbench.reports.section import Section
from bitbench.results import quality_stats as stats
from bitbench.results import units
from bitbench.results.quality_stats import NEAR_LOSSLESS_NATS, Estimate
from bitbench.results.record import QualityRecord

HEAD = (
    "method", "KL mean", "95%", "median", "p99", "max", "top-1 %", "top-5 %", "perplexity", "ratio", "ratio 95%"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subjects:
    """The records of one model, engine, device and environment: one for each method, the last."""

    title: str
    about: str
    sections: Sequence[Section]
    failed: Sequence[str]


def subjects(records: Sequence[QualityRecord]) -> list[Subjects]:
    """In the order of first appearance."""
    found: dict[tuple[str, str, str, str], dict[str, QualityRecord]] = {}
    for record in records:
        of = record.subject
        group = found.setdefault((of.model, of.engine, of.device, record.environment.pool_key), {})
        group[of.method_label] = record
    return [_subjects(list(group.values())) for group in found.values()]


def quality_report(records: Sequence[QualityRecord], width: int) -> Text:
    """For a terminal of that width."""
    lines = Lines(max(width, MIN_WIDTH))
    for of in subjects(records):
        lines.wrapped(of.title, "", "bold", indent=2)
        lines.wrapped(of.about, "", indent=2)
        for section in of.sections:
            lines.add("")
            lines.section(section, " * ")
        for line in of.failed:
            lines.wrapped(line, " ! ", "red")
        lines.add("")
    for line in DEFINITIONS:
        lines.wrapped(line, " ", "dim", indent=3)
    lines.text.rstrip()
    return lines.text


def quality_markdown(records: Sequence[QualityRecord]) -> str:
    """The same as GitHub-flavoured Markdown, without the definitions."""
    lines: list[str] = []
    for of in subjects(records):
        lines += [f"### {escaped(of.title)}", "", escaped(of.about), ""]
        for section in of.sections:
            lines += [f"**{escaped(section.title)}**", "", *table_lines(section.head, section.rows), ""]
            lines += [*(f"- {escaped(line)}" for line in section.below), ""] if section.below else []
        lines += [*(f"- **!** {escaped(line)}" for line in of.failed), ""] if of.failed else []
    return "\n".join(lines).rstrip() + "\n"


DEFINITIONS = (
    "KL: KL(P_16bit || P_method) of the next token, nats, over positions. top-1: the likeliest token is the same "
    "(1 - flips). top-5: shared among the five likeliest. Perplexity: exp of the mean negative log-likelihood; its "
    "ratio to the 16-bit model's is paired on positions.",
    "95%: bootstrap-t over documents (texts), which are independent where positions are not. Told apart: paired on "
    f"positions, 95% interval of the difference in mean KL. Below {NEAR_LOSSLESS_NATS:g} nats methods are near "
    "lossless and not ranked.",
    "decode: token by token through the engine and kernels that bitbench run times; prefill: whole windows at once, by "
    "other kernels for some methods. The two read different texts: do not compare them.",
)


def _subjects(records: Sequence[QualityRecord]) -> Subjects:
    first = records[0]
    versions = first.environment.versions
    engine = " ".join(part for part in (first.subject.engine, versions.get(first.subject.engine)) if part)
    device = first.environment.cpu if first.subject.device == "cpu" else first.environment.device_name
    able = [r for r in records if r.quality is not None]
    dtypes = sorted({p.reference_dtype for r in able if r.quality for p in r.quality.passes})
    about = f"beside the same model's 16-bit weights computed in {' and '.join(dtypes)}" if dtypes else ""
    return Subjects(
        title=f"Quality of {first.model_title or first.subject.model} on {device} · {engine}",
        about=f"{about} · environment {first.environment.pool_key}".removeprefix(" · "),
        sections=[*_passes(able), *_answers(able), *_numerics(able), *task_sections(able)],
        failed=[f"{r.subject.method_label}: {r.status}: {r.reason}" for r in records if r.status != "ok"],
    )


def _passes(records: Sequence[QualityRecord]) -> list[Section]:
    """One for each text and path, in the order of first appearance."""
    texts: list[list[tuple[str, QualityPass]]] = []
    for record in records:
        for one in record.quality.passes if record.quality else ():
            same = next((text for text in texts if stats.same_positions(text[0][1], one)), None)
            if same is None:
                texts.append(same := [])
            same.append((record.subject.method_label, one))
    return [_pass(text) for text in texts]


def _pass(rows: Sequence[tuple[str, QualityPass]]) -> Section:
    of = rows[0][1]
    num = len(of.documents)
    read = f"{of.num_positions} positions of {num} {'text' if num == 1 else 'texts'}"
    bos = ", BOS first" if of.bos else ""
    how = f"windows of {of.window} by {of.stride}{bos}" if of.path == "prefill" else f"texts of {of.window}{bos}"
    title = f"{of.corpus}, {of.path} path: {read}, {how}; 16-bit perplexity {stats.perplexities(of)[0]:.2f}"
    if of.storage_kl_nats:
        title += f"; the reference was stored in 16 bit, at a KL of {of.storage_kl_nats:.1g} to itself"
    return Section(title, HEAD, [_row(label, one) for label, one in rows], _told_apart(rows))


def _row(label: str, of: QualityPass) -> tuple[str, ...]:
    kl, mean, ratio = stats.kl(of), stats.mean_kl(of), stats.perplexity_ratio(of)
    return (
        label,
        units.kl(kl.mean),
        _interval(mean, units.kl),
        units.kl(kl.median),
        units.kl(kl.p99),
        units.kl(kl.max),
        units.share(stats.top1_agreement(of).value),
        units.share(stats.top5_overlap(of).value),
        f"{stats.perplexities(of)[1]:.2f}",
        f"{ratio.value:.3f}x",
        _interval(ratio, lambda end: f"{end or 0.0:.3f}"),
    )


def _interval(of: Estimate, told: Callable[[float | None], str]) -> str:
    if of.low is None or of.high is None:
        return units.UNKNOWN
    return f"{told(max(of.low, 0.0))}–{told(of.high)}"


def _told_apart(rows: Sequence[tuple[str, QualityPass]]) -> list[str]:
    """What a ranking must not be read from."""
    if rows[0][1].context_free_kl_nats < LEAST_CONTEXT_NATS:
        return ["the 16-bit model hardly gains from its context (random weights?): there is no quality to be lost here"]
    lossless = [label for label, one in rows if stats.near_lossless(one)]
    lines = [f"near lossless, so not ranked by KL: {', '.join(lossless)}"] if lossless else []
    same = []
    for (a, first), (b, second) in combinations(rows, 2):
        if not (stats.near_lossless(first) and stats.near_lossless(second)):
            found = stats.compare_kl(first, second)
            if found.verdict == "cannot be told apart":
                same.append(f"{a} and {b} ({_difference(found.difference)})")
    if same:
        return [*lines, f"cannot be told apart (paired, difference of mean KL): {'; '.join(same)}"]
    ranked = len(rows) - len(lossless)
    return [*lines, "every other pair can be told apart (paired)"] if ranked and len(rows) > 1 else lines


def _difference(of: Estimate) -> str:
    if of.low is None or of.high is None:
        return f"{of.value:+.4f}, too few texts for an interval"
    return f"{of.value:+.4f}, 95% {of.low:+.4f} to {of.high:+.4f}"


def _answers(records: Sequence[QualityRecord]) -> list[Section]:
    """How long greedy answers stay the reference's."""
    rows = []
    for record in records:
        found = stats.identical(record.quality.continuations) if record.quality else None
        if record.quality is None or found is None:
            continue
        parts = "-" if found.median_first_parting is None else units.count(found.median_first_parting)
        each = " ".join(str(c.num_identical) for c in record.quality.continuations)
        rows.append((record.subject.method_label, units.share(found.share), parts, each))
    lengths = {c.length for r in records if r.quality for c in r.quality.continuations}
    if not rows:
        return []
    title = f"greedy answers of {'/'.join(map(str, sorted(lengths)))} tokens to the protocol's prompts"
    head = ("method", "identical %", "else parts after (median)", "identical tokens of each")
    return [Section(title, head, rows, ())]


def _numerics(records: Sequence[QualityRecord]) -> list[Section]:
    """What the gate found."""
    rows = []
    for record in records:
        found = record.quality.numerics if record.quality else None
        if found is not None:
            layers = f"{found.num_layers}" + (f" ({found.num_unchecked} not)" if found.num_unchecked else "")
            worst = f"{found.layer_excess:.2f}" if found.num_layers else units.UNKNOWN
            rows.append((record.subject.method_label, layers, worst, f"{found.step_error:.3f}", found.worst_layer))
    title = "numerics: each layer's kernel against the stored numbers, decode steps against one forward over all"
    head = ("method", "layers checked", "worst / allowed", "step error, sd", "worst layer")
    return [Section(title, head, rows, ())] if rows else []
