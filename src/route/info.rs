//! INFO of many nodes as that of one server. Pure.

/// How a field of several nodes becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// What the first node says.
    First,
    /// Numbers are added.
    Sum,
    /// The largest number.
    Max,
    /// `ok`, unless a node says something else.
    Worst,
    /// Bytes for people: of the field without `_human`.
    Human,
    /// This, whatever the nodes say.
    Is(&'static str),
    /// It is about single nodes only.
    None,
    /// `name=number,…`: each is added, but for those of [`FIELDS`].
    Fields,
}

/// Fields by their names, or by how those begin (`*` at the end) or end (`*` at the beginning); the first row counts. All
/// others are the first node's.
const RULES: &[(&str, Rule)] = &[
    ("redis_mode", Rule::Is("standalone")),
    ("server_mode", Rule::Is("standalone")),
    ("role", Rule::Is("master")),
    ("cluster_enabled", Rule::Is("0")),
    ("cluster_connections", Rule::Is("0")),
    ("connected_slaves", Rule::Sum),
    ("slave*", Rule::None),
    ("master_repl_offset", Rule::Max),
    ("uptime_*", Rule::Max),
    ("loading", Rule::Max),
    ("async_loading", Rule::Max),
    ("*_in_progress", Rule::Max),
    ("*_scheduled", Rule::Max),
    ("rdb_last_save_time", Rule::Max),
    ("*_status", Rule::Worst),
    ("client_recent_max_*", Rule::Max),
    ("total_system_memory*", Rule::First),
    ("*_human", Rule::Human),
    ("*_perc", Rule::First),
    ("*_ratio", Rule::First),
    ("*_policy", Rule::First),
    ("used_*", Rule::Sum),
    ("maxmemory", Rule::Sum),
    ("allocator_*", Rule::Sum),
    ("mem_allocator", Rule::First),
    ("mem_*", Rule::Sum),
    ("number_of_*", Rule::Max),
    ("lazyfree*", Rule::Sum),
    ("blocked_clients", Rule::Sum),
    ("tracking_*", Rule::Sum),
    ("clients_in_timeout_table", Rule::Sum),
    ("rdb_changes_since_last_save", Rule::Sum),
    ("rdb_saves", Rule::Sum),
    ("aof_*_size", Rule::Sum),
    ("aof_rewrites*", Rule::Sum),
    ("total_*", Rule::Sum),
    ("instantaneous_*", Rule::Sum),
    ("rejected_connections", Rule::Sum),
    ("sync_*", Rule::Sum),
    ("expired_keys", Rule::Sum),
    ("expire*", Rule::Sum),
    ("evicted_*", Rule::Sum),
    ("current_eviction_exceeded_time", Rule::Sum),
    ("keyspace_*", Rule::Sum),
    ("pubsub*", Rule::Sum),
    ("migrate_cached_sockets", Rule::Sum),
    ("active_defrag_*", Rule::Sum),
    ("unexpected_error_replies", Rule::Sum),
    ("dump_payload_sanitizations", Rule::Sum),
    ("io_threaded_*", Rule::Sum),
    ("acl_access_denied_*", Rule::Sum),
    ("cmdstat_*", Rule::Fields),
    ("errorstat_*", Rule::Fields),
    ("latency_percentiles_*", Rule::Fields),
    ("db*", Rule::Fields),
];

/// The parts of a field that are not added.
const FIELDS: &[(&str, Rule)] = &[("p*", Rule::Max), ("avg_ttl", Rule::Max), ("usec_per_call", Rule::First)];

/// A section: its name and its fields, each with what every node that has it says.
struct Section<'a> {
    name: &'a str,
    fields: Vec<(&'a str, Vec<&'a str>)>,
}

/// One server's INFO of what several nodes say. `own` are fields whose values are known better.
#[must_use]
pub fn merge(texts: &[String], own: &[(&str, String)]) -> String {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for text in texts {
        let mut at = None;
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix("# ") {
                at = Some(sections.iter().position(|section| section.name == name).unwrap_or_else(|| {
                    sections.push(Section { name, fields: Vec::new() });
                    sections.len() - 1
                }));
            } else if let (Some(at), Some((field, value))) = (at, line.split_once(':')) {
                let fields = &mut sections[at].fields;
                match fields.iter_mut().find(|(name, _)| *name == field) {
                    Some((_, values)) => values.push(value),
                    None => fields.push((field, vec![value])),
                }
            }
        }
    }
    let texts: Vec<String> = sections.iter().map(|section| section.text(own)).collect();
    texts.join("\r\n")
}

impl Section<'_> {
    fn text(&self, own: &[(&str, String)]) -> String {
        let mut text = format!("# {}\r\n", self.name);
        for (name, values) in &self.fields {
            let known = own.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
            if let Some(value) = known.or_else(|| self.value(name, values)) {
                text += &format!("{name}:{value}\r\n");
            }
        }
        text
    }

    fn value(&self, name: &str, values: &[&str]) -> Option<String> {
        match rule(RULES, name) {
            Rule::None => None,
            Rule::Human => {
                let base = name.strip_suffix("_human")?;
                let (_, values) = self.fields.iter().find(|(name, _)| *name == base)?;
                Some(human(self.value(base, values)?.parse().ok()?))
            }
            Rule::Fields => Some(fields(values)),
            rule => Some(joined(rule, values)),
        }
    }
}

fn rule(rules: &[(&str, Rule)], name: &str) -> Rule {
    let fits = |pattern: &str| match (pattern.strip_prefix('*'), pattern.split_once('*')) {
        (Some(end), _) => name.ends_with(end),
        (None, Some((begin, end))) => name.starts_with(begin) && name.ends_with(end),
        (None, None) => name == pattern,
    };
    rules.iter().find(|(pattern, _)| fits(pattern)).map_or(Rule::First, |(_, rule)| *rule)
}

fn joined(rule: Rule, values: &[&str]) -> String {
    let first = || values.first().copied().unwrap_or_default().to_owned();
    let whole = || values.iter().map(|value| value.parse::<i128>().ok()).collect::<Option<Vec<_>>>();
    let numbers = || values.iter().map(|value| value.parse::<f64>().ok()).collect::<Option<Vec<_>>>();
    let places = first().split_once('.').map_or(0, |(_, digits)| digits.len());
    match rule {
        Rule::Is(value) => value.to_owned(),
        Rule::Sum => match (whole(), numbers()) {
            (Some(all), _) => all.iter().sum::<i128>().to_string(),
            (None, Some(all)) => format!("{:.places$}", all.iter().sum::<f64>()),
            (None, None) => first(),
        },
        Rule::Max => {
            let most = numbers().and_then(|all| {
                let most = all.iter().copied().fold(f64::MIN, f64::max);
                all.iter().position(|value| *value == most)
            });
            most.map_or_else(first, |at| values[at].to_owned())
        }
        Rule::Worst => {
            values.iter().find(|value| **value != "ok").map_or_else(first, |value| (*value).to_owned())
        }
        Rule::First | Rule::Human | Rule::None | Rule::Fields => first(),
    }
}

/// `calls=1,usec=2,usec_per_call=2.00` of several nodes.
fn fields(values: &[&str]) -> String {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, value) in
        values.iter().flat_map(|value| value.split(',')).filter_map(|part| part.split_once('='))
    {
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => all.push((name, vec![value])),
        }
    }
    let sum = |name: &str| {
        let (_, values) = all.iter().find(|(known, _)| *known == name)?;
        joined(Rule::Sum, values).parse::<f64>().ok()
    };
    let part = |(name, values): &(&str, Vec<&str>)| {
        let value = match (*name, sum("usec"), sum("calls")) {
            ("usec_per_call", Some(usec), Some(calls)) if calls > 0.0 => format!("{:.2}", usec / calls),
            _ => match rule(FIELDS, name) {
                Rule::First if *name != "usec_per_call" => joined(Rule::Sum, values),
                rule => joined(rule, values),
            },
        };
        format!("{name}={value}")
    };
    all.iter().map(part).collect::<Vec<_>>().join(",")
}

/// As a server writes bytes for people.
fn human(bytes: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    match units.iter().find(|(_, bits)| bytes >= 1 << bits) {
        Some((unit, bits)) => format!("{:.2}{unit}", bytes as f64 / (1_u64 << bits) as f64),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_become_one_server() {
        let node = |memory: u64, keys: u64, status: &str, extra: &str| {
            format!(
                "# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\n\r\n\
                 # Memory\r\nused_memory:{memory}\r\nused_memory_human:x\r\nmem_fragmentation_ratio:1.5\r\n\r\n\
                 # Persistence\r\nloading:0\r\naof_last_write_status:{status}\r\n\r\n\
                 # CPU\r\nused_cpu_sys:0.500001\r\n\r\n\
                 # Commandstats\r\ncmdstat_get:calls=2,usec=3,usec_per_call=1.50,rejected_calls=0\r\n{extra}\r\n\
                 # Replication\r\nrole:master\r\nconnected_slaves:1\r\nslave0:ip=1.2.3.4,port=1\r\n\r\n\
                 # Keyspace\r\ndb0:keys={keys},expires=1,avg_ttl=7\r\n"
            )
        };
        let texts = [node(1024, 5, "ok", ""), node(1_572_864, 6, "err", "cmdstat_set:calls=1,usec=1\r\n")];
        let merged = merge(&texts, &[("redis_version", "7.0.15".into())]);
        let expected = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\r\n\
             # Memory\r\nused_memory:1573888\r\nused_memory_human:1.50M\r\nmem_fragmentation_ratio:1.5\r\n\r\n\
             # Persistence\r\nloading:0\r\naof_last_write_status:err\r\n\r\n\
             # CPU\r\nused_cpu_sys:1.000002\r\n\r\n\
             # Commandstats\r\ncmdstat_get:calls=4,usec=6,usec_per_call=1.50,rejected_calls=0\r\n\
             cmdstat_set:calls=1,usec=1\r\n\r\n\
             # Replication\r\nrole:master\r\nconnected_slaves:2\r\n\r\n\
             # Keyspace\r\ndb0:keys=11,expires=2,avg_ttl=7\r\n";
        assert_eq!(merged, expected);
    }

    #[test]
    fn bytes_are_written_as_a_server_writes_them() {
        let all = [0, 1023, 1024, 1_016_224, 6_746_112, 25_276_502_016];
        assert_eq!(all.map(human), ["0B", "1023B", "1.00K", "992.41K", "6.43M", "23.54G"]);
    }
}
