//! Tables that read well on a terminal and are Markdown at the same time.

/// An aligned table; every column but the first `left` ones holds numbers and is set to the right.
pub(crate) fn render(headings: &[&str], left: usize, rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        cells.chain([headings[column], "---"]).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded =
            cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column < left {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            });
        format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
    };
    let rules: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(column, width)| match column < left {
            true => "-".repeat(*width),
            false => format!("{}:", "-".repeat(width - 1)),
        })
        .collect();
    let mut lines = vec![line(headings.to_vec()), line(rules.iter().map(String::as_str).collect())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// A number with as many digits as say something, and thousands set apart.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => thousands(value.round() as i64),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// How many.
pub(crate) fn count(value: usize) -> String {
    thousands(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A number, or a dash.
pub(crate) fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

fn thousands(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    format!("{}{}", if value < 0 { "-" } else { "" }, groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        assert_eq!(
            [1_234_567.8, 99.95, 3.24159, 0.0421, -1_500.0].map(number),
            ["1,234,568", "100.0", "3.24", "0.042", "-1,500"]
        );
    }

    #[test]
    fn a_table_is_aligned_markdown() {
        let table = render(&["what", "n"], 1, &[vec!["a".into(), "1,000".into()]]);

        assert_eq!(table, "| what |     n |\n| ---- | ----: |\n| a    | 1,000 |");
    }
}
