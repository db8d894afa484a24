//! Command lines and what becomes of them.

use super::*;

fn parse_with(line: &str, env: &[(&str, &str)]) -> Result<Invocation, String> {
    let args = std::iter::once("slotmux").chain(line.split_whitespace());
    let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    Invocation::parse(args, env).map_err(|usage| usage.to_string())
}

fn parse(line: &str) -> Result<Invocation, String> {
    parse_with(line, &[])
}

#[test]
fn the_least_command_line_gives_the_defaults() {
    let config = parse("--seeds redis-1:7000").unwrap().config;
    assert_eq!(config.seeds, [NodeAddr::new("redis-1", 7000)]);
    assert_eq!(config.listen, ["127.0.0.1:6379".parse().unwrap()]);
    assert_eq!(config.admin, Some("127.0.0.1:9400".parse().unwrap()));
    assert!(config.workers >= 1);
    assert_eq!((config.connections_per_node, config.ordering, config.spin), (1, Ordering::Key, Spin::Auto));
    assert_eq!(config.limits, Limits::default());
    assert_eq!((config.cluster_auth, config.client_password), (None, None));
}

#[test]
fn every_flag_is_read() {
    let line = "--seeds a:1,b:2 --seeds a:1 --listen [::1]:0 --listen unix:/tmp/s --admin off --workers 3 \
                --connections-per-node 2 --ordering connection --spin off --command-deadline 2m \
                --max-request 1GiB --log-level warn,slotmux::net=trace";
    let config = parse(line).unwrap().config;
    assert_eq!(config.seeds.len(), 2, "a seed named twice is one seed");
    assert_eq!(config.listen.len(), 2);
    assert_eq!((config.admin, config.workers, config.connections_per_node), (None, 3, 2));
    assert_eq!((config.ordering, config.spin), (Ordering::Connection, Spin::Off));
    assert_eq!(config.limits.command_deadline.as_secs(), 120);
    assert_eq!(config.limits.max_request, 1 << 30);
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
    let config = parse_with(&line, &[("SLOTMUX_CLIENT_PASSWORD", "s3cret")]).unwrap().config;
    let auth = config.cluster_auth.clone().unwrap();
    assert_eq!((auth.user.as_deref(), auth.password.as_bytes()), (Some("bob"), &b"hunter2 "[..]));
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("s3cret") && shown.contains("***"), "{shown}");

    assert!(config.admits(None, b"s3cret") && config.admits(Some(b"default"), b"s3cret"));
    assert!(!config.admits(None, b"s3cre") && !config.admits(Some(b"bob"), b"s3cret"));

    let both = parse_with(&line, &[("SLOTMUX_CLUSTER_PASSWORD", "x")]).unwrap_err();
    assert!(both.contains("--cluster-password-file: SLOTMUX_CLUSTER_PASSWORD is set as well"), "{both}");
    std::fs::write(&file, "\n").unwrap();
    assert!(parse(&line).unwrap_err().contains("is empty: it must hold the password"));
}

#[test]
fn the_demo_has_its_own_shape_and_no_seeds() {
    let invocation = parse("demo --primaries 5 --replicas 0 --workers 2").unwrap();
    assert_eq!(invocation.demo, Some(DemoOptions { primaries: 5, replicas: 0 }));
    assert_eq!(invocation.config.workers, 2);
    assert_eq!(invocation.config.listen, ["127.0.0.1:7379".parse().unwrap()]);
    let error = parse("demo --primaries 2 --seeds a:1").unwrap_err();
    assert!(error.contains("--primaries: 2 cannot elect") && error.contains("--seeds: the demo"), "{error}");
}
