//! The slotmux program: arguments, logging, allocator, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use slotmux::config::{Invocation, Usage};
use slotmux::{Bound, RunError, run, run_demo, server};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let parsed = Invocation::parse(std::env::args_os(), |name| std::env::var_os(name));
    let invocation = match parsed {
        Ok(invocation) => invocation,
        Err(usage) => return ExitCode::from(Usage::report(&usage)),
    };
    log_to_stderr(invocation.config.log.clone());
    match start(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start(Invocation { config, demo }: Invocation) -> Result<(), RunError> {
    let shutdown = CancellationToken::new();
    server::cancel_on_signal(shutdown.clone())?;
    // Nobody may be reading; the proxy serves all the same.
    let announce = |bound: &Bound| drop(bound.announce(&mut std::io::stdout().lock()));
    match demo {
        Some(options) => run_demo(options, config, shutdown, announce),
        None => run(config, shutdown, announce),
    }
}

/// Logs to stderr. A closed stderr loses the log and nothing else.
fn log_to_stderr(levels: Targets) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false);
    // Fails only if a subscriber is set already, which nobody does before.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(levels).with(lines));
}
