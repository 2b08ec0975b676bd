//! Figures formatted in few columns.

use std::time::Duration;

/// Formats a number of bytes in at most five columns: `999`, `1.2k`, `99.9k`, `123M`, powers of 1000.
pub fn bytes(count: f64) -> String {
    let mut value = count.max(0.0);
    if value < 999.5 {
        return format!("{value:.0}");
    }
    for unit in ["k", "M", "G", "T"] {
        value /= 1000.0;
        if value < 99.95 {
            return format!("{value:.1}{unit}");
        }
        if value < 999.5 {
            return format!("{value:.0}{unit}");
        }
    }
    format!("{:.0}P", value / 1000.0)
}

/// Formats a rate in at most five columns: `0`, `0.2`, `12.5`, `1.2k`.
pub fn rate(value: f64) -> String {
    if value > 0.0 && value < 99.95 {
        format!("{value:.1}")
    } else {
        bytes(value)
    }
}

/// Formats a time span in at most six columns: `840ms`, `2.5s`, `12s`, `9m59s`, `1h05m`, `3d02h`, `400d`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..10 => format!("{seconds}.{}s", span.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        86_400..8_640_000 => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Formats the last values as bars, the latest at the right; the highest fills its cell.
pub fn bars<'a>(values: impl DoubleEndedIterator<Item = &'a f64>, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let last: Vec<f64> = values.rev().take(width).copied().collect();
    let highest = last.iter().copied().fold(0.0, f64::max);
    let bar = |value: f64| {
        if value <= 0.0 {
            return ' ';
        }
        // Any value above zero is visible.
        let height = (value / highest * BARS.len() as f64).ceil() as usize;
        BARS[height.clamp(1, BARS.len()) - 1]
    };
    let bars: String = last.iter().rev().map(|value| bar(*value)).collect();
    format!("{bars:>width$}")
}

/// Cuts a text to `width` columns.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 { kept } else { kept + "…" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: String, expected: &str) {
        assert_eq!(said, expected);
    }

    #[test]
    fn figures() {
        check(bytes(0.0), "0");
        check(bytes(999.0), "999");
        check(bytes(999.6), "1.0k");
        check(bytes(99_940.0), "99.9k");
        check(bytes(99_960.0), "100k");
        check(bytes(999_600.0), "1.0M");
        check(bytes(1.5e15), "2P");
        check(bytes(f64::NAN), "0");
        check(rate(0.0), "0");
        check(rate(0.21), "0.2");
        check(rate(12.5), "12.5");
        check(rate(1_234.0), "1.2k");
        let seconds = |seconds| span(Duration::from_secs(seconds));
        check(span(Duration::from_millis(840)), "840ms");
        check(span(Duration::from_millis(2_590)), "2.5s");
        check(seconds(59), "59s");
        check(seconds(599), "9m59s");
        check(seconds(3_900), "1h05m");
        check(seconds(86_400 * 3 + 7_300), "3d02h");
        check(seconds(86_400 * 400), "400d");
    }

    #[test]
    fn bars_and_cuts() {
        check(bars([].iter(), 3), "   ");
        check(bars([0.0, 0.0].iter(), 3), "   ");
        check(bars([1.0, 8.0, 0.0].iter(), 4), " ▁█ ");
        check(bars([8.0, 1.0, 4.0, 8.0].iter(), 3), "▁▄█");
        check(bars([0.001, 8.0].iter(), 2), "▁█");
        check(cut("wiki", 4), "wiki");
        check(cut("wikis", 4), "wik…");
        check(cut("wiki", 0), "");
    }
}
