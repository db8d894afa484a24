//! The page in the hands of Prometheus' own tools.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::{Proxy, SOON, TestCluster, Value, eventually, nobody};

/// Requests of several kinds, so that most metrics have rows.
fn use_it(proxy: &Proxy) {
    let mut client = proxy.connect();
    for i in 0..7 {
        assert_eq!(client.cmd(&["SET", &format!("k{i}"), "v"]), Value::ok());
    }
    for wrong in [&["LPUSH", "k1", "x"][..], &["NOSUCH"], &["GET"], &["MSETNX", "a", "1", "b", "2"]] {
        assert!(client.cmd(wrong).is_error());
    }
}

#[test]
fn promtool_finds_no_fault_with_the_page() {
    let cluster = TestCluster::primaries(3);
    for args in [&["--workers", "2"][..], &["--per-node-histograms"]] {
        let proxy = Proxy::for_seeds(&cluster.seeds()).args(args).start();
        use_it(&proxy);
        let mut promtool = Command::new("promtool");
        let pipes = promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut check = pipes.stderr(Stdio::piped()).spawn().expect("promtool is installed");
        check.stdin.take().unwrap().write_all(proxy.metrics().as_bytes()).unwrap();
        let output = check.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}

/// A Prometheus that scrapes one proxy, and ends with the test.
struct Prometheus {
    child: Child,
    addr: String,
}

impl Prometheus {
    fn start(folder: &Path, target: &str) -> Self {
        let config = format!(
            "global: {{ scrape_interval: 500ms }}\nscrape_configs:\n  - job_name: slotmux\n    static_configs:\n      \
             - targets: [\"{target}\"]\n"
        );
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        let addr = nobody();
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let at = |name: &str| folder.join(name).display().to_string();
        let child = Command::new("prometheus")
            .args([flag("config.file", &at("prometheus.yml")), flag("storage.tsdb.path", &at("data"))])
            .args([flag("web.listen-address", &addr), flag("log.level", "warn")])
            .current_dir(folder)
            .stderr(File::create(folder.join("log")).unwrap())
            .spawn()
            .expect("prometheus is installed");
        Prometheus { child, addr }
    }

    /// The value of an expression that has exactly one, if it has.
    fn value(&self, expression: &str) -> Option<f64> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let mut stream = TcpStream::connect(&self.addr).ok()?;
        stream.set_read_timeout(Some(SOON)).unwrap();
        // With HTTP/1.0 the answer comes in one piece.
        write!(stream, "GET /api/v1/query?query={encoded} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        match &body["data"]["result"].as_array()?[..] {
            [one] => one["value"][1].as_str()?.parse().ok(),
            _ => None,
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_it() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    use_it(&proxy);
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(folder.path(), proxy.admin_addr());
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    eventually(SOON, || prometheus.value("up{job=\"slotmux\"}") == Some(1.0));
    for (expression, value) in [
        ("slotmux_requests_total{command=\"set\"}", 7.0),
        ("sum(slotmux_requests_total)", 11.0),
        ("slotmux_server_errors_total", 1.0),
        ("slotmux_errors_total{command=\"other\",kind=\"unknown_command\"}", 1.0),
        ("sum(slotmux_node_duration_seconds_count)", 8.0),
        ("count(slotmux_node_duration_seconds_sum > 0)", 3.0),
        ("slotmux_request_duration_seconds_bucket{family=\"string\",le=\"+Inf\"}", 9.0),
        ("slotmux_shards{cluster=\"default\"}", 3.0),
        ("slotmux_slots_uncovered", 0.0),
    ] {
        assert_eq!(prometheus.value(expression), Some(value), "{expression}: {}", log());
    }
    let mut client = proxy.connect();
    client.cmd(&["SET", "k", "v"]);
    eventually(SOON, || prometheus.value("slotmux_requests_total{command=\"set\"}") == Some(8.0));
    assert!(prometheus.value("process_cpu_seconds_total").unwrap() > 0.0);
}
