//! The page of codes says what there is, and each of its lines names a test that there is.

use std::collections::BTreeSet;
use std::path::Path;

use batonq_protocol::ErrorCode;
use batonq_server::explain::Code;
use batonq_server::job::{Guard, Reason};

const PAGE: &str = include_str!("../../docs/codes.md");

/// The lines of a table, in cells.
fn table(title: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = PAGE.split_once(&format!("## {title}\n")).expect("it has this section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

fn first_cells(title: &str) -> BTreeSet<&'static str> {
    table(title).into_iter().map(|row| row[0]).collect()
}

/// All that is tested, as text.
fn tests() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace");
    let mut text = String::new();
    let mut open: Vec<_> = ["tests/tests", "tests/src", "server/src", "client-rs/tests"]
        .iter()
        .map(|dir| root.join(dir))
        .collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(path.read_dir().expect("it can be read").flatten().map(|it| it.path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(path).expect("it is text");
        }
    }
    text
}

#[test]
fn every_line_names_a_test_that_there_is() {
    let tests = tests();
    let rows = PAGE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("|---"));
    let mut count = 0;
    for row in rows.filter(|row| !row.ends_with("| test |")) {
        let name = row.rsplit('`').nth(1).unwrap_or_else(|| panic!("no test: {row}"));
        assert!(tests.contains(&format!("fn {name}(")), "there is no test {name}");
        count += 1;
    }
    assert!(count > 30, "the page has its tables");
}

#[test]
fn the_page_has_every_error_code_with_its_meaning() {
    let rows = table("Errors");
    assert_eq!(rows.len(), ErrorCode::ALL.len());
    for (row, code) in rows.iter().zip(ErrorCode::ALL) {
        let meaning = code.meaning();
        let again = if meaning.retryable { "yes" } else { "no" };
        assert_eq!(row[..3], [meaning.name, &meaning.http_status.to_string(), again]);
    }
}

#[test]
fn the_page_has_every_cause_in_its_rank() {
    let rows = table("What keeps a job from running");
    let codes: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(codes, Code::ALL.map(Code::name));
}

#[test]
fn the_page_has_every_reason_and_guard() {
    assert_eq!(first_cells("Why a job is dead"), Reason::ALL.map(Reason::name).into());
    assert_eq!(first_cells("Guards"), Guard::ALL.map(Guard::name).into());
}
