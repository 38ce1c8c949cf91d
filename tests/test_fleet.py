"""examples/fleet names only metrics and labels that the OpenTelemetry exporter creates."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockguard.exporters.otel import METRICS
from sockguard.findings import LEAK, RESOLVED

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (pip install 'sockguard[test]')")

FLEET = Path(__file__).parent.parent / "examples" / "fleet"


# service.name and service.instance.id, by the collector's Prometheus exporter.
RESOURCE_LABELS = {"job", "instance"}
# Resource attributes, of the SDK's detectors `host` and `process`.
TARGET_INFO = {"target_info": RESOURCE_LABELS | {"host_name", "process_pid"}}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def prometheus_names(metric) -> dict[str, set[str]]:
    """Translate a metric to its Prometheus series: name -> labels.

    A unit in braces is an annotation and goes away, `s` is spelt out, a counter ends in `_total`.
    https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics
    """
    name = metric.name.replace(".", "_")
    if not metric.unit.startswith("{"):
        name += {"s": "_seconds"}[metric.unit]
    labels = RESOURCE_LABELS | {attribute.replace(".", "_") for attribute in metric.attributes}
    if metric.kind == "histogram":
        return {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return {f"{name}_total" if metric.kind == "counter" else name: labels}


SERIES = TARGET_INFO | {
    name: labels for metric in METRICS for name, labels in prometheus_names(metric).items()
}


def load(name: str):
    text = (FLEET / name).read_text("utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


RULES = load("alerts.yaml")["groups"][0]["rules"]
ALERTS = [rule for rule in RULES if "alert" in rule]
CASES = load("alerts_test.yaml")["tests"]
DASHBOARD = load("dashboard.json")


GROUPING = r"\b(?:by|on|ignoring|without|group_left|group_right) ?\(([^)]*)\)"


def grouped_by(expr: str) -> set[str]:
    """Labels in `by (...)`, `on (...)`, and the second argument of label_values()."""
    lists = re.findall(GROUPING, expr) + re.findall(r"label_values\(.*, (\w+)\)", expr)
    return {label.strip() for text in lists for label in text.split(",")}


def matched(expr: str) -> set[str]:
    """Labels in `{...}`."""
    selectors = re.findall(r"\{([^}]*)\}", expr)
    return {label for text in selectors for label in re.findall(r"(\w+) *(?:=|!)", text)}


def series_of(expr: str) -> set[str]:
    bare = re.sub(rf'"[^"]*"|\{{[^}}]*\}}|{GROUPING}', "", expr)
    return set(re.findall(r"[\w:]*(?:sockguard|target_info)[\w:]*", bare))


RECORDED = {rule["record"]: grouped_by(rule["expr"]) for rule in RULES if "record" in rule}


def dashboard_expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


EXPRESSIONS = [rule["expr"] for rule in RULES] + list(dashboard_expressions())


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("sockguard.socket.leaks", {"sockguard_socket_leaks_total"}),
        ("sockguard.fd.count", {"sockguard_fd_count"}),
        ("sockguard.watcher.cpu.time", {"sockguard_watcher_cpu_time_seconds_total"}),
        (
            "sockguard.socket.close_wait.duration",
            {
                f"sockguard_socket_close_wait_duration_seconds_{part}"
                for part in ("bucket", "sum", "count")
            },
        ),
    ],
)
def test_a_metric_is_translated_as_prometheus_does_it(name, series):
    (metric,) = (metric for metric in METRICS if metric.name == name)
    assert set(prometheus_names(metric)) == series


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_an_expression_names_only_series_and_labels_that_exist(expr):
    known = SERIES | RECORDED
    names = series_of(expr)
    assert names
    assert names <= set(known)
    assert grouped_by(expr) | matched(expr) <= set().union(*(known[name] for name in names))


def test_the_cases_feed_only_series_that_exist():
    for case in CASES:
        for given in case["input_series"]:
            (name,) = series_of(given["series"])
            assert matched(given["series"]) <= SERIES[name], given["series"]


def test_every_metric_is_on_the_dashboard():
    shown = set().union(*(series_of(expr) for expr in dashboard_expressions()))
    for metric in METRICS:
        assert shown & set(prometheus_names(metric)), metric.name


def test_every_legend_names_labels_of_its_expression():
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            recorded = (RECORDED.get(name, set()) for name in series_of(target["expr"]))
            assert labels <= grouped_by(target["expr"]).union(*recorded), panel["title"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_what_and_what_next(alert):
    assert set(alert) == {"alert", "expr", "for", "labels", "annotations"}
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(alert["annotations"]) == {"summary", "description"}
    assert re.search(r"Next:|Follow", alert["annotations"]["description"]) or (
        "follow its fingerprint" in alert["annotations"]["description"]
    )
    recorded = (RECORDED.get(name, set()) for name in series_of(alert["expr"]))
    kept = grouped_by(alert["expr"]).union(*recorded)
    assert set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"]))) <= kept


def test_the_text_names_only_events_and_attributes_that_exist():
    known = {LEAK, RESOLVED, "sockguard.verdict"}
    known |= {metric.name for metric in METRICS}
    known |= {attribute for metric in METRICS for attribute in metric.attributes}
    texts = [str(alert["annotations"]) for alert in ALERTS]
    texts += [str(panel.get("description")) for panel in DASHBOARD["panels"]]
    texts.append((FLEET / "README.md").read_text("utf-8"))
    for text in texts:
        assert set(re.findall(r"\bsockguard\.[a-z]+(?:[._][a-z]+)*", text)) <= known


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_a_case_that_fires_one_that_does_not_and_a_line_in_the_readme(alert):
    expected = [
        bool(check["exp_alerts"])
        for case in CASES
        for check in case["alert_rule_test"]
        if check["alertname"] == alert["alert"]
    ]
    assert set(expected) == {True, False}
    row = f"| `{alert['alert']}` | {alert['labels']['severity']} |"
    assert row in (FLEET / "README.md").read_text("utf-8")


def test_the_dashboard_asks_for_its_data_source_and_brings_no_uid():
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert DASHBOARD["uid"] is DASHBOARD["id"] is None
    sources = [panel["datasource"] for panel in DASHBOARD["panels"]]
    sources += [target["datasource"] for p in DASHBOARD["panels"] for target in p["targets"]]
    sources += [v["datasource"] for v in variables.values() if v["type"] == "query"]
    assert all(source == DATASOURCE for source in sources)


def test_the_panels_have_ids_of_their_own_and_do_not_overlap():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_collector_uses_what_it_defines_listens_on_loopback_and_is_scraped():
    collector = load("collector.yaml")
    pipelines = collector["service"]["pipelines"]
    assert set(pipelines) == {"metrics", "logs"}
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        assert used == set(collector[kind])
    protocols = collector["receivers"]["otlp"]["protocols"]
    endpoints = [protocols["grpc"]["endpoint"], protocols["http"]["endpoint"]]
    endpoints.append(collector["exporters"]["prometheus"]["endpoint"])
    assert all(endpoint.startswith("127.0.0.1:") for endpoint in endpoints)
    (scrape,) = load("prometheus.yaml")["scrape_configs"]
    # Else `job` and `instance` would be the collector's.
    assert scrape["honor_labels"] is True
    assert scrape["static_configs"] == [{"targets": [endpoints[-1]]}]


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yaml"),
        ("check", "config", "prometheus.yaml"),
        ("test", "rules", "alerts_test.yaml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_rules_and_their_cases(promtool, arguments):
    run = subprocess.run(
        [promtool, *arguments], cwd=FLEET, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_promtool_can_read_every_query_of_the_dashboard(promtool, tmp_path):
    queries = [t["expr"] for panel in DASHBOARD["panels"] for t in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "2m")}
        for number, expr in enumerate(queries)
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    run = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr
