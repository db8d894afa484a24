//! Which keys a section may have; what is wrong with one that it may not.

use super::bounds::BOUNDS;
use super::file::Section;
use super::mistakes::Mistakes;
use super::settings::{SETTINGS, Scope};

/// Notes every key of `section`, one of `scope`, that does not belong there.
pub(super) fn check(section: &Section<'_>, scope: Scope, mistakes: &mut Mistakes) {
    let allowed = allowed(scope);
    for (key, node) in section.entries() {
        match node {
            _ if allowed.contains(&key.as_str()) => {}
            // A section in a section, as of `metrics.per_node_histograms`.
            _ if allowed.iter().any(|name| is_in(name, key)) => {
                for (word, _) in node.section(&section.at(key), mistakes).entries() {
                    refuse(&format!("{key}.{word}"), section, scope, &allowed, mistakes);
                }
            }
            _ => refuse(key, section, scope, &allowed, mistakes),
        }
    }
}

fn is_in(name: &str, key: &str) -> bool {
    name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
}

fn refuse(key: &str, section: &Section<'_>, scope: Scope, allowed: &[&str], mistakes: &mut Mistakes) {
    if allowed.contains(&key) {
        return;
    }
    let elsewhere = [Scope::Cluster, Scope::Listener, Scope::Process]
        .into_iter()
        .find(|other| *other != scope && self::allowed(*other).contains(&key));
    let right = match elsewhere {
        Some(Scope::Process) => "it stands at the top of the file".to_owned(),
        Some(Scope::Cluster) => "it belongs to a cluster: write it under clusters.NAME".to_owned(),
        Some(Scope::Listener) => "it belongs to a listener: write it in an entry of listeners".to_owned(),
        None => match nearest(key, allowed) {
            Some(name) => format!("there is no such key; is `{name}` meant?"),
            None => format!("there is no such key; there are {}", allowed.join(", ")),
        },
    };
    mistakes.add(section.at(key), right);
}

/// The allowed key that is most like this one, if any is.
fn nearest<'a>(key: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let like = |name: &&str| strsim::jaro_winkler(key, name);
    let best = allowed.iter().max_by(|a, b| like(a).total_cmp(&like(b)))?;
    (like(best) > 0.85).then_some(*best)
}

fn allowed(scope: Scope) -> Vec<&'static str> {
    let is_top = scope == Scope::Process;
    let settings = SETTINGS.iter().filter(|setting| setting.scope == scope || (is_top && setting.general));
    let bounds = BOUNDS.iter().filter(|bound| bound.scope == scope || is_top);
    let sections = ["clusters", "listeners"].into_iter().filter(|_| is_top);
    settings.map(|setting| setting.key).chain(bounds.map(|bound| bound.name)).chain(sections).collect()
}
