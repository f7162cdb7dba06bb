//! A text with headings, lists and tables, to be read in a terminal or as Markdown.

use comfy_table::{ContentArrangement, Table, presets};

/// Columns of a terminal that are made use of.
const WIDTH: u16 = 100;

/// A part of a text.
#[derive(Debug)]
pub(super) enum Block {
    /// What the whole text is about.
    Title(String),
    /// What follows is about this.
    Heading(String),
    /// A sentence or two.
    Paragraph(String),
    /// Points, each with points of its own.
    List(Vec<Item>),
    /// A head and its rows.
    Table(Vec<&'static str>, Vec<Vec<String>>),
    /// To be typed as it is.
    Command(String),
}

/// A point of a list.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) text: String,
    pub(super) below: Vec<String>,
}

impl From<String> for Item {
    fn from(text: String) -> Self {
        Self { text, below: Vec::new() }
    }
}

/// For a terminal.
pub(super) fn terminal(blocks: &[Block]) -> String {
    let parts: Vec<String> = blocks.iter().map(in_terminal).collect();
    parts.join("\n\n") + "\n"
}

fn in_terminal(block: &Block) -> String {
    match block {
        Block::Title(text) | Block::Paragraph(text) => text.clone(),
        Block::Heading(text) => text.to_uppercase(),
        Block::List(items) => {
            lines(items, |text| format!("  {text}"), |text| format!("    {text}"))
        }
        Block::Table(head, rows) => {
            let mut table = Table::new();
            table
                .load_style(presets::NOTHING)
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(WIDTH)
                .set_header(head.iter().copied())
                .add_rows(rows);
            trimmed(&table)
        }
        Block::Command(text) => format!("  {text}"),
    }
}

/// As Markdown.
pub(super) fn markdown(blocks: &[Block]) -> String {
    let parts: Vec<String> = blocks.iter().map(in_markdown).collect();
    parts.join("\n\n") + "\n"
}

fn in_markdown(block: &Block) -> String {
    match block {
        Block::Title(text) => format!("# {}", escaped(text)),
        Block::Heading(text) => format!("## {}", escaped(text)),
        Block::Paragraph(text) => escaped(text),
        Block::List(items) => lines(
            items,
            |text| format!("* {}", escaped(text)),
            |text| format!("  * {}", escaped(text)),
        ),
        Block::Table(head, rows) => {
            let mut table = Table::new();
            table.load_style(presets::ASCII_MARKDOWN).set_header(head.iter().copied());
            table.add_rows(rows.iter().map(|row| row.iter().map(|cell| escaped(cell))));
            trimmed(&table)
        }
        Block::Command(text) => format!("```sh\n{text}\n```"),
    }
}

fn lines(items: &[Item], line: impl Fn(&str) -> String, below: impl Fn(&str) -> String) -> String {
    let mut all = Vec::new();
    for item in items {
        all.push(line(&item.text));
        all.extend(item.below.iter().map(|text| below(text)));
    }
    all.join("\n")
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// What would mean something in Markdown stands for itself.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '\\' | '|' | '<' | '*' | '`' | '[' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_breaks_out_of_its_cell() {
        let cell = "a | b\n<c> *d* [e]".to_owned();
        let text = markdown(&[Block::Table(vec!["head"], vec![vec![cell]])]);
        assert_eq!(text.lines().last(), Some("| a \\| b \\<c> \\*d\\* \\[e] |"));
    }
}
