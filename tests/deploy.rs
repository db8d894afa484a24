//! What is in deploy/, as far as it can be tried without a container engine, Kubernetes or systemd running.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_yaml::Value as Yaml;
use support::{Proxy, SOON, TestCluster, Value, eventually, packages_of_node, virtual_environment};
use tempfile::TempDir;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn deploy(path: &str) -> PathBuf {
    top().join("deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap()
}

/// What it printed, of a command that must succeed.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{stdout}{stderr}");
    stdout
}

// --- the image ---

/// The binary that the image has: built by the image's script from what the image's builder gets to see. The first
/// build takes half a minute; it is the release profile, so that what is tried here is what is shipped.
fn static_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build_static)
}

fn build_static() -> PathBuf {
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image");
    let (context, target) = (work.join("context"), work.join("target"));
    let _ = fs::remove_dir_all(&context);
    fs::create_dir_all(&context).unwrap();
    let ignore = fs::read_to_string(top().join(".dockerignore")).unwrap();
    for path in ignore.lines().filter_map(|line| line.strip_prefix('!')) {
        // With their times, by which cargo knows that there is nothing to do.
        output(Command::new("cp").args(["-a", "--parents", path]).arg(&context).current_dir(top()));
    }
    let mut build = Command::new(context.join("deploy/docker/build-static"));
    output(build.arg("--target-dir").arg(&target).current_dir(&context));
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]));
    target.join(host.trim_end()).join("release/slotmux")
}

/// The binary in a folder that is the root of its file system, with nothing else but what an engine puts there.
fn in_an_empty_root() -> (TempDir, impl Fn() -> Command) {
    let root = tempfile::tempdir().unwrap();
    fs::copy(static_binary(), root.path().join("slotmux")).unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/hosts"), "127.0.0.1 redis-cluster\n").unwrap();
    let path = root.path().to_owned();
    let is_root = output(Command::new("id").arg("-u")).trim_end() == "0";
    let command = move || {
        let mut command = Command::new(if is_root { "chroot" } else { "unshare" });
        command.args(if is_root { &[][..] } else { &["--map-root-user", "--root"] });
        command.arg(&path).arg("/slotmux");
        command
    };
    (root, command)
}

#[test]
fn the_static_binary_needs_nothing_beside_it() {
    let (_root, slotmux) = in_an_empty_root();
    let version = format!("slotmux {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(output(slotmux().arg("--version")), version);

    // Names are resolved by /etc/hosts.
    let cluster = TestCluster::primaries(3);
    let seed = format!("redis-cluster:{}", cluster.node(0).port());
    let proxy = Proxy::by(slotmux(), &[seed]).start();
    assert_eq!(proxy.connect().cmd(&["SET", "k", "v"]), Value::ok());
    assert_eq!(proxy.connect().cmd(&["GET", "k"]), Value::bulk("v"));
    let port = proxy.admin_addr().rsplit_once(':').unwrap().1;
    let health = |slotmux: &mut Command| {
        let asked = slotmux.arg("health").args(["--admin", &format!("0.0.0.0:{port}")]).output().unwrap();
        (asked.status.code(), String::from_utf8(asked.stdout).unwrap())
    };
    assert_eq!(health(&mut slotmux()), (Some(0), "ready: ok\n".to_owned()));
    let admin = proxy.admin_addr().to_owned();
    assert_eq!(proxy.stop().code(), Some(0));
    let gone = slotmux().args(["health", "--admin", &admin]).output().unwrap();
    assert_eq!(gone.status.code(), Some(1));
}

#[test]
fn a_name_that_no_server_knows_is_an_error_of_the_static_binary_and_no_more() {
    let (_root, slotmux) = in_an_empty_root();
    let mut proxy = Proxy::by(slotmux(), &["nowhere.invalid:6379"]).start();
    eventually(SOON, || proxy.log().contains("failed to lookup address"));
    assert_eq!((proxy.get("/healthz").0, proxy.get("/readyz").0), (200, 503));
    assert!(proxy.wait(Duration::ZERO).is_none(), "it goes on trying");
    assert_eq!(proxy.stop().code(), Some(0));
}

#[test]
fn the_dockerfile_ends_in_an_image_of_one_file_for_a_user_who_is_not_root() {
    let linter = packages_of_node("dockerfile", &top().join("tests/deploy")).join(".bin/dockerfile-utils");
    output(Command::new(linter).arg("lint").arg(deploy("docker/Dockerfile")));
    let text = read("docker/Dockerfile");
    let (build, image) = text.split_once("FROM scratch\n").unwrap();
    assert!(build.contains("RUN deploy/docker/build-static "), "it is built as the tests build it:\n{build}");
    let lines: Vec<&str> = image.lines().filter(|line| !line.starts_with('#')).collect();
    let user = lines.iter().find_map(|line| line.strip_prefix("USER ")).unwrap();
    assert!(user.split(':').all(|id| id.parse::<u32>().unwrap() > 0), "{user}");
    for line in ["COPY --from=build /slotmux /slotmux", "EXPOSE 6379 9400", "ENTRYPOINT [\"/slotmux\"]"] {
        assert!(lines.contains(&line), "`{line}` is missing in:\n{image}");
    }
    assert!(image.contains("CMD [\"/slotmux\", \"health\"]"), "{image}");
}

// --- manifests ---

/// The programs that know the schemas of Compose and Kubernetes.
fn validators() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| virtual_environment("validators", &top().join("tests/deploy/requirements.txt")))
}

/// `slotmux check` of a file's text. The secrets that it names in `folder` are there, and so are the variables.
#[track_caller]
fn check(text: &str, folder: &str, variables: &[(&str, &Path)]) {
    let there = tempfile::tempdir().unwrap();
    let here = format!("{}/", there.path().display());
    let text = text.replace(folder, &here);
    for name in text.split(&here).skip(1).filter_map(|rest| rest.split(['\n', ' ', '}', '"']).next()) {
        fs::write(there.path().join(name), "secret\n").unwrap();
    }
    let file = there.path().join("slotmux.yaml");
    fs::write(&file, text).unwrap();
    let variables = variables.iter().map(|(name, path)| (name, there.path().join(path)));
    output(Proxy::command().arg("check").arg(&file).envs(variables));
}

/// What is at a path such as `spec.containers.0.ports`; null if nothing is.
fn at<'a>(value: &'a Yaml, path: &str) -> &'a Yaml {
    const NULL: &Yaml = &Yaml::Null;
    path.split('.').fold(value, |value, step| {
        let found = step.parse::<usize>().map_or_else(|_| value.get(step), |i| value.get(i));
        found.unwrap_or(NULL)
    })
}

fn list<'a>(value: &'a Yaml, path: &str) -> &'a [Yaml] {
    at(value, path).as_sequence().map(Vec::as_slice).unwrap_or_default()
}

#[track_caller]
fn text<'a>(value: &'a Yaml, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_else(|| panic!("no text at {path} of {value:?}"))
}

/// Seconds of `20s`, bytes of `192MiB` or `256Mi`.
#[track_caller]
fn number(text: &str) -> u64 {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap();
    let unit = match &text[digits..] {
        "s" => 1,
        "Mi" | "MiB" => 1 << 20,
        other => panic!("what is {other}?"),
    };
    text[..digits].parse::<u64>().unwrap() * unit
}

#[test]
fn the_compose_file_is_one_and_its_files_are_there() {
    let path = deploy("docker/compose.yaml");
    let schema = ["--builtin-schema", "vendor.compose-spec"];
    output(Command::new(validators().join("check-jsonschema")).args(schema).arg(&path));
    check(&read("docker/slotmux.yaml"), "/run/secrets/", &[]);
    let mut compose: Yaml = serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    compose.apply_merge().unwrap();
    let folder = path.parent().unwrap();
    let services = at(&compose, "services").as_mapping().unwrap();
    assert_eq!(services.len(), 10);
    for (name, service) in services {
        for volume in list(service, "volumes") {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            assert!(folder.join(from).exists(), "{name:?}: no {from}");
        }
        for port in list(service, "ports") {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name:?}: {port:?} is open to others");
        }
    }
    let build = at(&services["slotmux"], "build");
    let context = folder.join(text(build, "context"));
    assert!(context.join(text(build, "dockerfile")).exists() && context.join(".dockerignore").exists());
}

#[test]
fn the_manifests_are_those_of_kubernetes_from_the_oldest_version_on() {
    for version in ["1.30", "1.37"] {
        let mut validate = Command::new(validators().join("kubernetes-validate"));
        validate.args(["--strict", "--kubernetes-version", version]);
        validate.args([deploy("kubernetes/deployment.yaml"), deploy("kubernetes/sidecar.yaml")]);
        let said = output(&mut validate);
        assert!(!said.contains("WARN"), "{said}");
    }
}

#[test]
fn the_manifests_agree_with_their_configurations() {
    for (file, place) in [("deployment", "containers"), ("sidecar", "initContainers")] {
        let manifest = read(&format!("kubernetes/{file}.yaml"));
        let documents: Vec<Yaml> =
            manifest.split("\n---\n").map(|it| serde_yaml::from_str(it).unwrap()).collect();
        let of = |kind| documents.iter().find(|it| text(it, "kind") == kind).unwrap();
        let (map, pod) = (of("ConfigMap"), at(of("Deployment"), "spec.template.spec"));
        let written = at(map, "data").get("slotmux.yaml").unwrap().as_str().unwrap();
        check(written, "/run/secrets/slotmux/", &[]);
        let config: Yaml = serde_yaml::from_str(written).unwrap();
        let container = at(pod, &format!("{place}.0"));

        // The process stops before it is killed, and refuses before it is killed.
        let pre_stop = at(container, "lifecycle.preStop.sleep.seconds").as_u64().unwrap_or(0);
        let grace = at(pod, "terminationGracePeriodSeconds").as_u64().unwrap();
        assert!(pre_stop + number(text(&config, "drain_timeout")) < grace, "{file}");
        let limit = number(text(container, "resources.limits.memory"));
        assert!(2 * number(text(&config, "max_memory")) + number("64MiB") <= limit, "{file}");

        // Probes and services go by the names of ports, and those are where it listens.
        let ports = list(container, "ports");
        let port =
            |name: &str| ports.iter().find(|port| text(port, "name") == name).expect("a port of that name");
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            port(text(container, &format!("{probe}.httpGet.port")));
        }
        let listens = |port: &Yaml, address: &str| {
            assert_eq!(address, format!("0.0.0.0:{}", at(port, "containerPort").as_u64().unwrap()), "{file}");
        };
        listens(port("slotmux-admin"), text(&config, "admin"));
        let address = text(&config, "listeners.0.address");
        if file == "deployment" {
            listens(port(text(of("Service"), "spec.ports.0.targetPort")), address);
        } else {
            assert_eq!(address, "127.0.0.1:6379");
            assert!(manifest.contains(&format!("redis://{address}")));
        }

        // What is mounted is there.
        let volumes = list(pod, "volumes");
        for mount in list(container, "volumeMounts") {
            assert!(
                volumes.iter().any(|volume| text(volume, "name") == text(mount, "name")),
                "{file}: {mount:?}"
            );
        }
        let maps = volumes.iter().filter_map(|volume| at(volume, "configMap.name").as_str());
        assert_eq!(maps.collect::<Vec<_>>(), [text(map, "metadata.name")]);
    }
}

// --- systemd ---

#[test]
fn the_unit_is_one_and_agrees_with_its_configuration() {
    let unit = read("systemd/slotmux.service");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slotmux.service");
    // The program has to be there to be verified.
    fs::write(&file, unit.replace("/usr/local/bin/slotmux", env!("CARGO_BIN_EXE_slotmux"))).unwrap();
    let analyze = |args: &[&str]| output(Command::new("systemd-analyze").args(args).arg(&file));
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && !said.contains("slotmux.service:"), "{said}");
    // In tenths: from 0, which nothing that serves can have, to 100.
    analyze(&["security", "--offline=true", "--no-pager", "--threshold=15"]);

    let config = read("systemd/slotmux.yaml");
    check(&config, "${CREDENTIALS_DIRECTORY}/", &[("CREDENTIALS_DIRECTORY", Path::new(""))]);
    let setting = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let drain = config.lines().find_map(|line| line.strip_prefix("drain_timeout: ")).unwrap();
    assert!(setting("TimeoutStopSec=").parse::<u64>().unwrap() > number(drain));
    for name in config.split("${CREDENTIALS_DIRECTORY}/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(unit.contains(&format!("\nLoadCredential={name}:")), "nothing loads {name}");
    }
}

// --- Prometheus ---

fn promtool(args: &[&str], folder: &Path) -> String {
    output(Command::new("promtool").args(args).current_dir(folder))
}

#[test]
fn prometheus_takes_its_configuration_and_the_rules() {
    let folder = deploy("prometheus");
    promtool(&["check", "config", "prometheus.yml"], &folder);
    promtool(&["check", "rules", "--lint-fatal", "rules.yml"], &folder);
}

#[test]
fn every_alert_fires_when_it_should_and_not_before() {
    promtool(&["test", "rules", "rules_test.yml"], &deploy("prometheus"));
    let (rules, tests) = (read("prometheus/rules.yml"), read("prometheus/rules_test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test fires {alert}");
    }
}

/// Debian's Prometheus is built without the discovery of Kubernetes. So its finds are played by fixed ones, with the
/// labels that they have there.
#[test]
fn pods_are_found_by_the_name_of_their_port() {
    let written = read("prometheus/prometheus-kubernetes.yml");
    let discovery = "    kubernetes_sd_configs:\n      - role: pod\n";
    assert!(written.contains(discovery), "{written}");
    let found = |address: &str, port: &str, phase: &str| {
        let labels = [
            ("pod_container_port_name", port),
            ("pod_phase", phase),
            ("namespace", "n"),
            ("pod_name", "p"),
            ("pod_node_name", "m"),
        ];
        let labels = labels.map(|(name, value)| format!("__meta_kubernetes_{name}: \"{value}\""));
        format!("      - {{ targets: [\"{address}\"], labels: {{ {} }} }}\n", labels.join(", "))
    };
    let pods = [
        ("10.0.0.1:9400", "slotmux-admin", "Running"),
        ("10.0.0.1:6379", "redis", "Running"),
        ("10.0.0.2:9400", "slotmux-admin", "Failed"),
    ];
    let pods: String = pods.iter().map(|(address, port, phase)| found(address, port, phase)).collect();
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("prometheus.yml"),
        written.replace(discovery, &format!("    static_configs:\n{pods}")),
    )
    .unwrap();
    fs::copy(deploy("prometheus/rules.yml"), folder.path().join("rules.yml")).unwrap();
    promtool(&["check", "config", "prometheus.yml"], folder.path());
    let said =
        promtool(&["check", "service-discovery", "--timeout=1s", "prometheus.yml", "slotmux"], folder.path());
    let found: Yaml = serde_yaml::from_str(&said).unwrap();
    let kept: Vec<&Yaml> = found
        .as_sequence()
        .unwrap()
        .iter()
        .map(|it| at(it, "labels"))
        .filter(|it| it.get("__address__").is_some())
        .collect();
    assert_eq!(kept.len(), 1, "{said}");
    let labels = ["__address__", "namespace", "pod", "machine", "job"].map(|name| text(kept[0], name));
    assert_eq!(labels, ["10.0.0.1:9400", "n", "p", "m", "slotmux"], "{said}");
}
