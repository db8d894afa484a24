//! A real Prometheus scrapes a real proxy in front of a real cluster: what deploy/ asks it for is there.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_yaml::Value as Yaml;
use slotmux::error::ErrorKind;
use slotmux::metrics::{DECLARED, Reached, ServerError};
use support::{Proxy, SOON, TestCluster, eventually, nobody, tag_of};
use tempfile::TempDir;

/// What stands for an interval of Grafana's in a query.
const INTERVAL: &str = "10s";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)).unwrap()
}

/// A Prometheus with the configuration and the rules of deploy/, but a second between scrapes.
struct Prometheus {
    child: Child,
    addr: String,
    folder: TempDir,
    started: SystemTime,
}

impl Prometheus {
    fn scraping(proxy: &Proxy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = read("prometheus/prometheus.yml");
        assert!(config.contains("\"slotmux:9400\"") && config.contains(": 15s"), "{config}");
        let config = config.replace("slotmux:9400", proxy.admin_addr()).replace(": 15s", ": 1s");
        fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        fs::write(folder.path().join("rules.yml"), read("prometheus/rules.yml")).unwrap();
        let addr = nobody();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut prometheus = Command::new("prometheus");
        prometheus.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]);
        prometheus.arg(format!("--web.listen-address={addr}")).current_dir(folder.path());
        let child = prometheus.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let prometheus = Self { child, addr, folder, started: SystemTime::now() };
        eventually(SOON, || TcpStream::connect(&prometheus.addr).is_ok());
        eventually(SOON, || prometheus.page("/-/ready").0.contains(" 200 "));
        prometheus
    }

    /// The head and the body of an answer.
    fn page(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// The series that an expression gives from the start until now, without those that are no number throughout.
    fn series(&self, expr: &str) -> Vec<Yaml> {
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let query: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (start, end) = (seconds(self.started), seconds(SystemTime::now()));
        let path = format!("/api/v1/query_range?query={query}&start={start}&end={end}&step=1");
        // JSON is YAML.
        let answer: Yaml = serde_yaml::from_str(&self.page(&path).1).unwrap();
        assert_eq!(answer["status"], "success", "{expr}: {answer:?}");
        let series = answer["data"]["result"].as_sequence().unwrap().clone();
        let is_number = |sample: &Yaml| sample[1] != "NaN";
        series.into_iter().filter(|it| it["values"].as_sequence().unwrap().iter().any(is_number)).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A query, and the label that its series must have, for a list of choices.
struct Query {
    of: String,
    expr: String,
    label: Option<String>,
}

/// All that the dashboard asks for, with its variables at `All`.
fn dashboard() -> Vec<Query> {
    let dashboard: Yaml = serde_yaml::from_str(&read("grafana/dashboard.json")).unwrap();
    let mut queries = Vec::new();
    let mut add = |of: &Yaml, expr: &str, label: Option<&str>| {
        let mut expr = expr.replace("$__rate_interval", INTERVAL).replace("$__interval", INTERVAL);
        for name in ["instance", "cluster", "node"] {
            expr = expr.replace(&format!("${name}"), ".*");
        }
        assert!(!expr.contains('$'), "an unknown variable in {expr}");
        let of = of.as_str().unwrap().to_owned();
        queries.push(Query { of, expr, label: label.map(str::to_owned) });
    };
    for panel in dashboard["panels"].as_sequence().unwrap().iter().filter(|it| it["type"] != "row") {
        for target in panel["targets"].as_sequence().unwrap() {
            add(&panel["title"], target["expr"].as_str().unwrap(), None);
        }
    }
    for note in dashboard["annotations"]["list"].as_sequence().unwrap() {
        add(&note["name"], note["expr"].as_str().unwrap(), None);
    }
    for variable in dashboard["templating"]["list"].as_sequence().unwrap() {
        if variable["type"] == "query" {
            let query = variable["query"]["query"].as_str().unwrap();
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
            let (expr, label) = inner.rsplit_once(", ").unwrap();
            add(&variable["name"], expr, Some(label));
        }
    }
    queries
}

/// The rules' own queries, and the names under which they are recorded.
fn rules() -> Vec<Yaml> {
    let rules: Yaml = serde_yaml::from_str(&read("prometheus/rules.yml")).unwrap();
    let groups = rules["groups"].as_sequence().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_sequence().unwrap().clone()).collect()
}

#[test]
fn every_query_of_the_dashboard_and_every_recording_rule_returns_data() {
    let cluster = TestCluster::start();
    let args = ["--workers", "2", "--command-deadline", "2s"];
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&args).start();
    let prometheus = Prometheus::scraping(&proxy);
    let mut client = proxy.connect();
    let key = |slot: u16| format!("{{{}}}k", tag_of(slot));
    let mut round = || {
        for slot in (0..16_384).step_by(1_000) {
            client.cmd(&["SET", &key(slot), "v"]);
            client.cmd(&["GET", &key(slot)]);
        }
        assert!(client.cmd(&["LPUSH", &key(0), "x"]).is_error(), "a node's error");
        assert!(client.cmd(&["nonsense"]).is_error(), "an error of the proxy");
        let mut broken = proxy.connect();
        broken.send_raw("*-2x\r\n");
        broken.read_to_end_raw();
    };
    eventually(SOON, || !prometheus.series("up{job=\"slotmux\"} == 1").is_empty());
    round();
    cluster.migrate_slot(0, 0, 1);
    round();
    // Links that are lost, dials that are refused, and commands that wait.
    cluster.kill9(2);
    round();

    let mut missing = dashboard();
    let recorded = rules().into_iter().filter_map(|rule| rule["record"].as_str().map(str::to_owned));
    missing.extend(recorded.map(|name| Query { of: "recorded".to_owned(), expr: name, label: None }));
    assert!(missing.len() > 70, "{}", missing.len());
    let until = Instant::now() + 3 * SOON;
    while !missing.is_empty() && Instant::now() < until {
        round();
        missing.retain(|query| {
            let found = prometheus.series(&query.expr);
            let has_it = |series: &Yaml| {
                query.label.as_ref().is_none_or(|label| series["metric"].get(label).is_some())
            };
            !found.iter().any(has_it)
        });
        std::thread::sleep(Duration::from_millis(100));
    }
    let missing: Vec<String> = missing.iter().map(|query| format!("{}: {}", query.of, query.expr)).collect();
    assert!(missing.is_empty(), "no data for:\n{}\n{}", missing.join("\n"), proxy.metrics());
}

#[test]
fn the_rules_speak_of_metrics_and_labels_that_there_are() {
    let text = read("prometheus/rules.yml");
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names = text.split(word).filter(|it| it.starts_with("slotmux_") || it.starts_with("process_"));
    for name in names {
        let of = |suffix| name.strip_suffix(suffix).unwrap_or(name);
        let known = |metric: &str| [name, of("_bucket"), of("_sum"), of("_count")].contains(&metric);
        let recorded =
            text.lines().any(|line| line.contains("- record:") && line.contains(&format!(":{name}:")));
        assert!(recorded || DECLARED.iter().any(|metric| known(metric.name)), "there is no metric {name}");
    }
    let values = [
        ("kind", ErrorKind::ALL.iter().map(|it| it.label()).collect::<Vec<_>>()),
        ("code", ServerError::ALL.iter().map(|it| it.label()).collect()),
        ("bound", Reached::ALL.iter().map(|it| it.label()).collect()),
    ];
    for (label, known) in values {
        let start = format!("{label}=~\"");
        let written = text.split(&start).skip(1).filter_map(|rest| rest.split('"').next());
        for value in written.flat_map(|values| values.split('|')) {
            assert!(known.contains(&value), "no {label} is {value}");
        }
    }
}
