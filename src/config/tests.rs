//! Command lines and what becomes of them.

use super::*;

fn invoke(line: &str, env: &[(&str, &str)]) -> Result<Invocation, String> {
    let args = std::iter::once("slotmux").chain(line.split_whitespace());
    let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    Invocation::parse(args, env).map_err(|usage| usage.to_string())
}

fn parse_with(line: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    match invoke(line, env)? {
        Invocation::Serve(config) => Ok(config),
        other => panic!("not to serve: {other:?}"),
    }
}

fn parse(line: &str) -> Result<Config, String> {
    parse_with(line, &[])
}

/// Checks a file of these lines.
fn check(yaml: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slotmux.yaml");
    std::fs::write(&file, yaml).unwrap();
    match invoke(&format!("check {}", file.display()), env) {
        Ok(Invocation::Check { config, .. }) => Ok(config),
        Ok(other) => panic!("not checked: {other:?}"),
        Err(error) => Err(error.replace(&file.display().to_string(), "FILE")),
    }
}

#[test]
fn the_least_command_line_gives_the_defaults() {
    let config = parse("--seeds redis-1:7000").unwrap();
    let (cluster, listener) = (&config.clusters[0], &config.listeners[0]);
    assert_eq!(cluster.seeds, [NodeAddr::new("redis-1", 7000)]);
    assert_eq!((listener.addr.clone(), listener.cluster), ("127.0.0.1:6379".parse().unwrap(), 0));
    assert_eq!(config.admin, Some("127.0.0.1:9400".parse().unwrap()));
    assert!(config.workers >= 1);
    assert_eq!((cluster.connections_per_node, config.spin), (1, Spin::Auto));
    assert_eq!((listener.session.ordering, listener.mode), (Ordering::Key, None));
    assert_eq!(cluster.limits, ClusterLimits::default());
    assert_eq!((cluster.auth.clone(), listener.session.passwords.len()), (None, 0));
}

#[test]
fn every_flag_is_read() {
    let line = "--seeds a:1,b:2 --seeds a:1 --listen [::1]:0 --listen unix:/tmp/s --admin off --workers 3 \
                --connections-per-node 2 --ordering connection --spin off --command-deadline 2m \
                --max-request 1GiB --max-clients 5 --log-level warn,slotmux::net=trace";
    let config = parse(line).unwrap();
    let (cluster, session) = (&config.clusters[0], &config.listeners[1].session);
    assert_eq!(cluster.seeds.len(), 2, "a seed named twice is one seed");
    assert_eq!(config.listeners.len(), 2);
    assert_eq!((config.admin, config.workers, cluster.connections_per_node), (None, 3, 2));
    assert_eq!((session.ordering, config.spin), (Ordering::Connection, Spin::Off));
    assert_eq!(session.limits.command_deadline.as_secs(), 120);
    assert_eq!((session.limits.max_request, config.limits.max_clients), (1 << 30, 5));
}

#[test]
fn all_mistakes_come_in_one_run_each_with_its_flag() {
    let line = "--seeds nowhere --listen 6379 --admin x --workers 0 --connections-per-node many \
                --ordering none --spin on --command-deadline 30 --max-request 1B --log-level loud \
                --client-password-file /nonexistent/file --cluster-user bob";
    let error = parse(line).unwrap_err();
    for flag in [
        "seeds: `nowhere` is no address: the port is missing",
        "listen: `6379`",
        "admin: `x`",
        "workers: `0` is no number from 1 to",
        "connections-per-node: `many`",
        "ordering: `none` is neither `key` nor `connection`",
        "spin: `on`",
        "command-deadline: `30` is no duration such as 250ms",
        "max-request: `1B` is no size such as 64KiB, 512MiB or 1GiB from 1KiB to 4GiB",
        "log-level: `loud`",
        "client-password-file: cannot read /nonexistent/file",
        "cluster-user: a user needs a password",
    ] {
        assert!(error.contains(&format!("error: --{flag}")), "{flag} is missing in:\n{error}");
    }
}

#[test]
fn without_a_client_password_strangers_are_kept_out() {
    let line = "--seeds a:1 --listen 0.0.0.0:6379 --listen 127.0.0.1:1 --listen redis:1";
    let error = parse(line).unwrap_err();
    assert_eq!(error.matches("--listen: ").count(), 2, "{error}");
    assert!(error.contains("0.0.0.0:6379 is open to other machines and no client password"), "{error}");
    assert!(error.contains("--unprotected"), "{error}");
    assert!(parse(&format!("{line} --unprotected")).is_ok());
    assert!(parse_with(line, &[("SLOTMUX_CLIENT_PASSWORD", "secret")]).is_ok());
}

#[test]
fn passwords_come_from_files_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "hunter2 \r\n").unwrap();
    let line = format!("--seeds a:1 --cluster-user bob --cluster-password-file {}", file.display());
    let config = parse_with(&line, &[("SLOTMUX_CLIENT_PASSWORD", "s3cret")]).unwrap();
    let auth = config.clusters[0].auth.clone().unwrap();
    assert_eq!((auth.user.as_deref(), auth.passwords[0].as_bytes()), (Some("bob"), &b"hunter2 "[..]));
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("s3cret") && shown.contains("***"), "{shown}");

    let session = &config.listeners[0].session;
    assert!(session.admits(None, b"s3cret") && session.admits(Some(b"default"), b"s3cret"));
    assert!(!session.admits(None, b"s3cre") && !session.admits(Some(b"bob"), b"s3cret"));

    let both = parse_with(&line, &[("SLOTMUX_CLUSTER_PASSWORD", "x")]).unwrap_err();
    assert!(both.contains("--cluster-password-file: SLOTMUX_CLUSTER_PASSWORD is set as well"), "{both}");
    std::fs::write(&file, "\n").unwrap();
    assert!(parse(&line).unwrap_err().contains("is empty: it must hold the password"));
}

#[test]
fn the_demo_has_its_own_shape_and_no_seeds() {
    let Ok(Invocation::Demo(options, config)) = invoke("demo --primaries 5 --replicas 0 --workers 2", &[])
    else {
        panic!("no demo")
    };
    assert_eq!(options, DemoOptions { primaries: 5, replicas: 0 });
    assert_eq!(config.workers, 2);
    assert_eq!(config.listeners[0].addr, "127.0.0.1:7379".parse().unwrap());
    let error = invoke("demo --primaries 2 --seeds a:1", &[]).unwrap_err();
    assert!(
        error.contains("--primaries: `2` is no number from 3") && error.contains("--seeds: the demo"),
        "{error}"
    );
}

const TWO: &str = "
workers: 2
command_deadline: 5s
link_timeout: 3s
clusters:
  sessions:
    seeds: [redis-1:7000, redis-2:7000]
    user: proxy
    passwords: [\"${NEW}\", old]
    link_timeout: 1s
    address_map: [10.0.0.1:7000=127.0.0.1:1, 10.0.0.1=127.0.0.2]
  cache:
    seeds: redis-9:7000
listeners:
  - address: 127.0.0.1:6379
    cluster: sessions
  - address: unix:/run/slotmux/cache.sock
    mode: \"0660\"
    cluster: cache
    passwords: [{ file: PASSWORD }]
    ordering: connection
    command_deadline: 250ms
";

#[test]
fn a_file_names_clusters_and_listeners_with_settings_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "pass\n").unwrap();
    let yaml = TWO.replace("PASSWORD", password.to_str().unwrap());
    let config = check(&yaml, &[("NEW", "n3w")]).unwrap();
    let [sessions, cache] = &config.clusters[..] else { panic!("{config:?}") };
    assert_eq!((&*sessions.name, sessions.seeds.len(), cache.seeds.len()), ("sessions", 2, 1));
    let auth = sessions.auth.clone().unwrap();
    assert_eq!(auth.passwords.iter().map(Secret::as_bytes).collect::<Vec<_>>(), [&b"n3w"[..], b"old"]);
    assert_eq!((sessions.limits.link_timeout.as_secs(), cache.limits.link_timeout.as_secs()), (1, 3));
    let [first, second] = &config.listeners[..] else { panic!("{config:?}") };
    assert_eq!((first.cluster, second.cluster, second.mode), (0, 1, Some(0o660)));
    let deadline = |listener: &ListenerConfig| listener.session.limits.command_deadline.as_millis();
    assert_eq!((deadline(first), deadline(second)), (5000, 250));
    assert_eq!(second.session.ordering, Ordering::Connection);
    assert!(second.session.admits(None, b"pass") && first.session.passwords.is_empty());
    assert_eq!(sessions.address_map.to_string(), "10.0.0.1:7000=127.0.0.1:1,10.0.0.1=127.0.0.2");
    assert_eq!(config.workers, 2);
}

#[test]
fn flags_override_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slotmux.yaml");
    let yaml =
        "clusters: { one: { seeds: [a:1] } }\nlisteners: [{ address: 127.0.0.1:1, max_request: 1MiB }]\n";
    std::fs::write(&file, yaml).unwrap();
    let line = format!("--config {} --seeds b:2 --listen 127.0.0.1:2 --max-request 2MiB", file.display());
    let config = parse(&line).unwrap();
    assert_eq!(
        (config.clusters[0].seeds.clone(), &*config.clusters[0].name),
        (vec![NodeAddr::new("b", 2)], "one")
    );
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].addr, "127.0.0.1:2".parse().unwrap());
    assert_eq!(config.listeners[0].session.limits.max_request, 2 << 20);
}

#[test]
fn every_mistake_of_a_file_is_told_with_its_path() {
    let yaml = "
workers: none
metrics: yes
max_connections_per_node: 5
command_dedline: 1s
link_timeout: 3
mode: \"0660\"
clusters:
  one: { seeds: [a:1, b], passwords: [], address: x, address_map: [\"a\"] }
  two: { user: bob, passwords: [\"${MISSING}\", {}], max_clients: 3 }
  three: 7
  \"\": { seeds: [a:1] }
  \"a\\nb\": { seeds: [a:1] }
listeners:
  - { address: 127.0.0.1:1, cluster: four, link_timeout: 1s }
  - { address: 0.0.0.0:2, cluster: one, max_request: 1B, mode: 9 }
  - { cluster: one }
  - { address: unix:/s, cluster: two, unprotected: maybe, ordering: [key] }
  - { address: 127.0.0.1:1, cluster: one }
  - { address: 0.0.0.0:7, cluster: one, passwords: \"${MISSING}\" }
";
    let error = check(yaml, &[]).unwrap_err();
    for line in [
        "workers: `none` is no number from 1",
        "command_dedline: there is no such key; is `command_deadline` meant?",
        "link_timeout: `3` is no duration such as",
        "mode: it belongs to a listener",
        "clusters.one.seeds[1]: `b` is no address: the port is missing",
        "clusters.one.address: it belongs to a listener",
        "clusters.one.address_map[0]: `a` is no address: write FROM=TO",
        "metrics: must be a section",
        "max_connections_per_node: 5 are fewer than the ",
        "clusters: \"\" is no name for a cluster",
        "clusters: \"a\\nb\" is no name for a cluster",
        "clusters.two.passwords[0]: the variable MISSING is not set",
        "clusters.two.passwords[1]: write `file: PATH`",
        "clusters.two.max_clients: it stands at the top",
        "clusters.two.seeds: name at least one node",
        "clusters.three: must be a section",
        "listeners[0].cluster: `four` is no cluster of this file; there are one, two, three, ",
        "listeners[0].link_timeout: it belongs to a cluster",
        "listeners[1].address: 0.0.0.0:2 is open to other machines",
        "listeners[1].max_request: `1B` is no size",
        "listeners[1].mode: `9` are no permissions",
        "listeners[2]: its `address` is missing",
        "listeners[3].unprotected: `maybe` is neither `false` nor `true`",
        "listeners[3].ordering: takes one value",
        "listeners[4].address: 127.0.0.1:1 is the address of another listener already",
        "listeners[5].passwords: the variable MISSING is not set",
    ] {
        assert!(error.contains(&format!("error: FILE: {line}")), "{line} is missing in:\n{error}");
    }
    // What follows from a mistake is none of its own.
    for line in ["clusters.two.user", "listeners[5].address"] {
        assert!(!error.contains(line), "{line} in:\n{error}");
    }
}

#[test]
fn what_is_no_yaml_or_no_section_says_so() {
    for (yaml, text) in [
        ("workers: [", "FILE: no YAML: "),
        ("- a", "FILE: this is no list of `key: value`"),
        ("workers: 1\nworkers: 2", "duplicate entry"),
        ("workers:", "FILE: workers: has no value"),
        ("1: 2", "FILE: a key here is no text"),
        ("workers: !x 1", "FILE: workers: has a YAML tag"),
        ("clusters: {}", "FILE: clusters: names no cluster"),
        ("clusters: { a: { seeds: [$x] } }", "clusters.a.seeds[0]: a `$` stands before `{NAME}`"),
        ("listeners: 1", "FILE: listeners: must be a list of sections"),
        ("", "FILE: clusters.NAME.seeds: name at least one node"),
    ] {
        let error = check(yaml, &[]).unwrap_err();
        assert!(error.contains(text), "`{yaml}` lacks `{text}`:\n{error}");
    }
    assert!(
        invoke("check /nonexistent.yaml", &[]).unwrap_err().contains("/nonexistent.yaml: cannot be read: ")
    );
    assert!(
        check("\u{feff}clusters: { a: { seeds: [\"a:1\"] } }", &[]).is_ok(),
        "a mark before the text is passed over"
    );
    let endless = "clusters: { a: { seeds: [\"a:1\"], passwords: [{ file: /dev/zero }] } }";
    assert!(check(endless, &[]).unwrap_err().contains("cannot read /dev/zero: it has more than 64 KiB"));
    let two = "clusters: { a: { seeds: [a:1] }, b: { seeds: [b:1] } }";
    let error = check(two, &[("SLOTMUX_CLUSTER_PASSWORD", "x")]).unwrap_err();
    assert!(error.contains("SLOTMUX_CLUSTER_PASSWORD: which of the 2 clusters"), "{error}");
    assert!(
        error.contains("listeners: which cluster does it serve? Write `cluster:` with one of a, b"),
        "{error}"
    );
    assert!(!error.contains("error: FILE: listeners[0]"), "{error}");
}

#[test]
fn the_declared_connections_must_hold_the_shared_ones() {
    let line = "--seeds a:1 --workers 4 --connections-per-node 2 --max-connections-per-node";
    assert!(parse(&format!("{line} 29")).is_ok());
    let error = parse(&format!("{line} 28")).unwrap_err();
    assert!(
        error.contains("28 are fewer than the 29 that cluster default needs: 4 workers × (2 × 2 + 3) + 1"),
        "{error}"
    );
}

#[test]
fn a_health_check_needs_no_more_than_the_address() {
    let health = |line: &str| match invoke(line, &[]) {
        Ok(Invocation::Health(admin)) => Ok(admin.to_string()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    assert_eq!(health("health").unwrap(), "127.0.0.1:9400");
    assert_eq!(health("health --admin 10.0.0.1:1").unwrap(), "10.0.0.1:1");
    assert!(health("health --admin off").unwrap_err().contains("there is nobody to ask"));
}
