//! The medians as Markdown, with their ratios to the floor's.

use std::fmt;

use crate::workload::MGET;

/// What one round at full speed gave.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Requests per second.
    pub(crate) rate: f64,
    /// In milliseconds.
    pub(crate) p50: f64,
    /// CPU microseconds per request.
    pub(crate) cpu: f64,
    /// Context switches per request.
    pub(crate) switches: f64,
}

/// The medians of one load on one program; `None` where they cannot be measured.
pub(crate) struct Row {
    pub(crate) load: &'static str,
    pub(crate) program: &'static str,
    pub(crate) rate: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) cpu: Option<f64>,
    pub(crate) switches: Option<f64>,
    pub(crate) calls: Option<f64>,
}

/// Resident memory of one program.
pub(crate) struct Memory {
    pub(crate) program: &'static str,
    pub(crate) start_kib: u64,
    pub(crate) peak_kib: u64,
}

/// All of a run.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) memory: Vec<Memory>,
}

/// One column of the table.
struct Column {
    title: &'static str,
    decimals: usize,
    value: fn(&Row) -> Option<f64>,
}

const COLUMNS: [Column; 6] = [
    Column { title: "requests/s", decimals: 0, value: |row| row.rate },
    Column { title: "p50 ms", decimals: 3, value: |row| row.p50 },
    Column { title: "p99 ms at half the rate", decimals: 3, value: |row| row.p99 },
    Column { title: "CPU µs", decimals: 2, value: |row| row.cpu },
    Column { title: "switches", decimals: 3, value: |row| row.switches },
    Column { title: "system calls", decimals: 2, value: |row| row.calls },
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| load | program | {} |", COLUMNS.map(|column| column.title).join(" | "))?;
        writeln!(f, "|---|---|{}", "---:|".repeat(COLUMNS.len()))?;
        for row in &self.rows {
            let first = self
                .rows
                .iter()
                .find(|other| other.load == row.load)
                .is_some_and(|other| std::ptr::eq(other, row));
            let load = if first { row.load } else { "" };
            let cells = COLUMNS.map(|column| self.cell(row, &column));
            writeln!(f, "| {load} | {} | {} |", row.program, cells.join(" | "))?;
        }
        writeln!(f, "\n| memory | at start | peak |\n|---|---:|---:|")?;
        for memory in &self.memory {
            let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
            writeln!(f, "| {} | {} | {} |", memory.program, mib(memory.start_kib), mib(memory.peak_kib))?;
        }
        if let Some(ratio) = self.mget() {
            writeln!(f, "\nMGET of ten keys: {ratio:.2} × the CPU of ten pipelined GETs.")?;
        }
        Ok(())
    }
}

impl Report {
    /// The figure, and behind it the ratio to the floor's.
    fn cell(&self, row: &Row, column: &Column) -> String {
        let Some(value) = (column.value)(row) else { return "–".to_owned() };
        let figure = format!("{value:.*}", column.decimals);
        let floor = self.find(row.load, "floor").and_then(column.value);
        match floor {
            Some(floor) if row.program != "floor" && floor > 0.0 => {
                format!("{figure} ({:.2}×)", value / floor)
            }
            _ => figure,
        }
    }

    fn mget(&self) -> Option<f64> {
        let cpu = |load| self.find(load, "slotmux")?.cpu;
        Some(cpu(MGET.0)? / (10.0 * cpu(MGET.1)?))
    }

    fn find(&self, load: &str, program: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.load == load && row.program == program)
    }
}

/// The median; `None` of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
