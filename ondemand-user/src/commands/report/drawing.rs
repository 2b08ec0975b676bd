//! Shared by all plots: those of a report's page, and those of the benches.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

/// Where a plot is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A picture of `width` times `height`, with a label for screen readers.
///
/// # Errors
///
/// The error of `draw`, or plotters cannot write it.
pub fn svg(
    label: &str,
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(drawing)?;
    }
    let label = label
        .replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;");
    let head = format!("<svg role=\"img\" aria-label=\"{label}\" ");
    Ok(text.replacen("<svg ", &head, 1))
}

/// An error of plotters as one of this program.
pub fn drawing(error: impl Display) -> anyhow::Error {
    anyhow!("draw a plot: {error}")
}

/// Letters. plotters writes `font-size` as the size over 1.24.
pub fn font(size: i32, colour: &RGBColor) -> TextStyle<'_> {
    TextStyle::from(("sans-serif", size).into_font()).color(colour)
}

/// Draws a text; `style` defines which of its points is at `at`.
///
/// # Errors
///
/// plotters cannot write it.
pub fn write(area: &Area<'_>, text: &str, at: (i32, i32), style: TextStyle<'_>) -> Result<()> {
    area.draw(&Text::new(text.to_owned(), at, style))
        .map_err(drawing)
}

/// Three significant digits: `0.0123`, `4.56`, `789`, `12.3k`, `45.6M`.
pub fn number(value: f64) -> String {
    let (value, unit) = match value.abs() {
        ..1e4 => (value, ""),
        ..1e6 => (value / 1e3, "k"),
        ..1e9 => (value / 1e6, "M"),
        _ => (value / 1e9, "G"),
    };
    let digits = match value.abs() {
        0.0 | 100.0.. => 0,
        value => (2.0 - value.log10().floor()).clamp(0.0, 6.0) as usize,
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        #[track_caller]
        fn check(value: f64, expected: &str) {
            assert_eq!(number(value), expected);
        }
        check(0.0, "0");
        check(0.012_345, "0.0123");
        check(4.5, "4.5");
        check(-20.04, "-20");
        check(789.4, "789");
        check(12_345.0, "12.3k");
        check(100_000.0, "100k");
        check(3.6e6, "3.6M");
    }

    #[test]
    fn a_label_is_escaped() {
        let svg = svg("a \"<b>\" & c", (10, 10), |_| Ok(())).unwrap();
        let label = "aria-label=\"a &quot;&lt;b>&quot; &amp; c\"";
        assert!(svg.contains(label), "{svg}");
    }
}
