//! The slotmux program: arguments, logging, allocator, exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use slotmux::admin::health;
use slotmux::config::{Config, DemoOptions, Invocation, Usage};
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
    let ended = match invocation {
        Invocation::Serve(config) => serve(config, None),
        Invocation::Demo(options, config) => serve(config, Some(options)),
        Invocation::Check { file, config } => {
            say(&format!("{file}: {}\n", config.summary()));
            Ok(())
        }
        Invocation::Health(admin) => {
            let (ready, text) = health(&admin);
            say(&text);
            return if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, demo: Option<DemoOptions>) -> Result<(), RunError> {
    log_to_stderr(config.log.clone());
    let shutdown = CancellationToken::new();
    server::cancel_on_signal(shutdown.clone())?;
    // Nobody may be reading; the proxy serves all the same.
    let announce = |bound: &Bound| drop(bound.announce(&mut std::io::stdout().lock()));
    match demo {
        Some(options) => run_demo(options, config, shutdown, announce),
        None => run(config, shutdown, announce),
    }
}

/// Prints to stdout; with nobody to read it, the exit code is all there is.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
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
