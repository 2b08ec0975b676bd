//! The plots of a page, as SVG in the page's colours, which follow light and dark.

use anyhow::Result;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::drawing::{self, Area, drawing, font, number, write};
use super::model::{Report, Service, WEEKDAYS, seconds};

/// Width of all plots, in units of about one pixel on a phone.
const WIDTH: u32 = 380;
const HEIGHT: u32 = 250;
/// Maximum number of services in the timeline: those with most arrivals.
pub const MOST_ROWS: usize = 20;

// plotters draws in these colours; the page replaces them by its own.
const INK: RGBColor = RGBColor(1, 2, 3);
const FAINT: RGBColor = RGBColor(1, 2, 4);
const FIRST: RGBColor = RGBColor(1, 2, 5);
const SECOND: RGBColor = RGBColor(1, 2, 6);
const NAMES: [(&str, &str); 4] = [
    ("#010203", "var(--ink)"),
    ("#010204", "var(--faint)"),
    ("#010205", "var(--first)"),
    ("#010206", "var(--second)"),
];

/// A plot in the page's own colours.
fn svg(label: &str, height: u32, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = drawing::svg(label, (WIDTH, height), draw)?;
    for (colour, name) in NAMES {
        text = text.replace(colour, name);
    }
    Ok(text)
}

/// `5s`, `10m`, `1.5h`, `7d`: short, for an axis.
fn short(seconds: f64) -> String {
    let (number, unit) = match seconds {
        ..60.0 => (seconds, "s"),
        ..3_600.0 => (seconds / 60.0, "m"),
        ..86_400.0 => (seconds / 3_600.0, "h"),
        _ => (seconds / 86_400.0, "d"),
    };
    format!("{}{unit}", (number * 10.0).round() / 10.0)
}

/// The unit in which an axis up to `longest` seconds has figures of one or more, and its seconds.
pub fn unit(longest: f64) -> (&'static str, f64) {
    match longest {
        ..120.0 => ("seconds", 1.0),
        ..7_200.0 => ("minutes", 60.0),
        _ => ("hours", 3_600.0),
    }
}

/// The unit of time up and idle in the plot [`what_if`].
pub fn what_if_unit(service: &Service) -> (&'static str, f64) {
    let outcomes = service.what_if.outcomes.iter();
    unit(seconds(
        outcomes.map(|outcome| outcome.warm_idle).max().unwrap_or(0),
    ))
}

/// A label for every nth place, so that they do not touch.
fn label(labels: &[String], place: &SegmentValue<usize>) -> String {
    let step = labels.len().div_ceil(6).max(1);
    match place {
        SegmentValue::CenterOf(at) if at % step == 0 => labels.get(*at).cloned(),
        _ => None,
    }
    .unwrap_or_default()
}

/// Plots the lengths of the gaps between two uses.
pub fn gaps(service: &Service) -> Result<String> {
    let used = |row: &&super::model::Gaps| row.count > 0;
    let first = service
        .gaps
        .iter()
        .position(|row| row.count > 0)
        .unwrap_or(0);
    let last = service
        .gaps
        .iter()
        .rposition(|row| row.count > 0)
        .unwrap_or(0);
    let rows = service.gaps.get(first..=last).unwrap_or_default();
    let longest = rows
        .iter()
        .filter(used)
        .map(|row| row.count)
        .max()
        .unwrap_or(1);
    let labels: Vec<String> = rows
        .iter()
        .map(|row| {
            row.up_to_seconds
                .map_or("more".to_owned(), |limit| format!("≤{}", short(limit)))
        })
        .collect();
    svg("Gaps between uses, by length", HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(26)
            .y_label_area_size(48)
            .build_cartesian_2d(
                (0..rows.len().max(1)).into_segmented(),
                0.0..longest as f64 * 1.05,
            )
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(FAINT)
            .x_labels(rows.len().max(1))
            .x_label_formatter(&|place| label(&labels, place))
            .y_labels(5)
            .y_label_formatter(&|count| number(*count))
            .label_style(font(15, &INK))
            .draw()
            .map_err(drawing)?;
        let bars = rows.iter().enumerate().filter(|(_, row)| row.count > 0);
        chart
            .draw_series(bars.map(|(at, row)| {
                let corner = (SegmentValue::Exact(at), 0.0);
                let other = (SegmentValue::Exact(at + 1), row.count as f64);
                let mut bar = Rectangle::new([corner, other], FIRST.filled());
                bar.set_margin(0, 0, 1, 1);
                bar
            }))
            .map_err(drawing)?;
        Ok(())
    })
}

/// Plots cold starts, and time up and idle, over the timeout.
pub fn what_if(service: &Service) -> Result<String> {
    let outcomes = &service.what_if.outcomes;
    let best = service.recommended.as_ref().and_then(|best| {
        outcomes
            .iter()
            .position(|outcome| seconds(outcome.timeout.into()) == best.timeout_seconds)
    });
    let labels: Vec<String> = outcomes
        .iter()
        .map(|outcome| short(seconds(outcome.timeout.into())))
        .collect();
    let (unit, length) = what_if_unit(service);
    let spans = |micros: u128| seconds(micros) / length;
    let most = outcomes
        .iter()
        .map(|outcome| outcome.cold_starts)
        .max()
        .unwrap_or(0);
    let longest = outcomes
        .iter()
        .map(|outcome| spans(outcome.warm_idle))
        .fold(0.0, f64::max);
    let top = |highest: f64| 0.0..if highest > 0.0 { highest * 1.08 } else { 1.0 };
    let places = || (0..outcomes.len().max(1)).into_segmented();
    svg(
        &format!("Cold starts and {unit} up and idle, by idle timeout"),
        HEIGHT,
        |area| {
            let mut chart = ChartBuilder::on(area)
                .margin(8)
                .x_label_area_size(26)
                .y_label_area_size(48)
                .right_y_label_area_size(48)
                .build_cartesian_2d(places(), top(most as f64))
                .map_err(drawing)?
                .set_secondary_coord(places(), top(longest));
            chart
                .configure_mesh()
                .disable_x_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(FAINT)
                .axis_style(FAINT)
                .x_labels(outcomes.len().max(1))
                .x_label_formatter(&|place| label(&labels, place))
                .y_labels(5)
                .y_label_formatter(&|count| number(*count))
                .label_style(font(15, &INK))
                .draw()
                .map_err(drawing)?;
            chart
                .configure_secondary_axes()
                .axis_style(FAINT)
                .y_labels(5)
                .y_label_formatter(&|spans| number(*spans))
                .label_style(font(15, &INK))
                .draw()
                .map_err(drawing)?;
            if let Some(best) = best {
                let line =
                    [0.0, most as f64 * 1.08].map(|height| (SegmentValue::CenterOf(best), height));
                chart
                    .draw_series(LineSeries::new(line, INK.mix(0.6)))
                    .map_err(drawing)?;
            }
            let places = (0..outcomes.len()).map(SegmentValue::CenterOf);
            let cold = outcomes.iter().map(|outcome| outcome.cold_starts as f64);
            let cold: Vec<_> = places.clone().zip(cold).collect();
            let warm = outcomes.iter().map(|outcome| spans(outcome.warm_idle));
            let warm: Vec<_> = places.zip(warm).collect();
            chart
                .draw_series(LineSeries::new(cold.clone(), FIRST.stroke_width(2)))
                .map_err(drawing)?;
            chart
                .draw_series(
                    cold.into_iter()
                        .map(|at| Circle::new(at, 3, FIRST.filled())),
                )
                .map_err(drawing)?;
            chart
                .draw_secondary_series(LineSeries::new(warm.clone(), SECOND.stroke_width(2)))
                .map_err(drawing)?;
            chart
                .draw_secondary_series(
                    warm.into_iter()
                        .map(|at| Circle::new(at, 3, SECOND.filled())),
                )
                .map_err(drawing)?;
            Ok(())
        },
    )
}

/// Returns the services of the timeline.
pub fn timeline_rows(report: &Report) -> Vec<&Service> {
    let mut rows: Vec<&Service> = report.services.iter().collect();
    rows.sort_by_key(|service| std::cmp::Reverse(service.arrivals));
    rows.truncate(MOST_ROWS);
    rows
}

/// Plots when each service was up.
pub fn timeline(report: &Report, moment: impl Fn(f64) -> String) -> Result<String> {
    const LEFT: i32 = 118;
    const RIGHT: i32 = WIDTH as i32 - 12;
    const ROW: i32 = 18;
    let rows = timeline_rows(report);
    let bottom = 6 + ROW * rows.len() as i32;
    svg("When each service was up", (bottom + 24) as u32, |area| {
        let middle = font(15, &INK).pos(Pos::new(HPos::Right, VPos::Center));
        for (place, service) in rows.iter().enumerate() {
            let top = 6 + ROW * place as i32;
            let mut name: String = service.name.chars().take(12).collect();
            if name.len() < service.name.len() {
                name.push('…');
            }
            write(area, &name, (LEFT - 6, top + ROW / 2), middle.clone())?;
            let ground = [(LEFT, top + 2), (RIGHT, top + ROW - 2)];
            area.draw(&Rectangle::new(ground, FAINT.mix(0.5).filled()))
                .map_err(drawing)?;
            for (from, until, share) in stretches(&service.timeline) {
                let x = |part: usize| {
                    LEFT + (part as i32 * (RIGHT - LEFT)) / service.timeline.len().max(1) as i32
                };
                // Even the shortest run is visible.
                let right = x(until).max(x(from) + 1);
                let corners = [(x(from), top + 2), (right, top + ROW - 2)];
                let colour = FIRST.mix(0.15 + 0.85 * f64::from(share));
                area.draw(&Rectangle::new(corners, colour.filled()))
                    .map_err(drawing)?;
            }
        }
        for (part, anchor) in [(0, HPos::Left), (1, HPos::Center), (2, HPos::Right)] {
            let x = LEFT + part * (RIGHT - LEFT) / 2;
            let at = moment(report.from + report.seconds * f64::from(part) / 2.0);
            let style = font(15, &INK).pos(Pos::new(anchor, VPos::Top));
            write(area, &at, (x, bottom + 6), style)?;
        }
        Ok(())
    })
}

/// Equal adjacent parts of a timeline that are not down: from, until, and the share of time up in
/// twelfths.
fn stretches(timeline: &[f32]) -> Vec<(usize, usize, f32)> {
    let mut found: Vec<(usize, usize, f32)> = Vec::new();
    for (part, share) in timeline.iter().enumerate() {
        if *share <= 0.0 {
            continue;
        }
        let share = (share.min(1.0) * 12.0).ceil() / 12.0;
        match found.last_mut() {
            Some((_, until, before)) if *until == part && *before == share => *until = part + 1,
            _ => found.push((part, part + 1, share)),
        }
    }
    found
}

/// Plots arrivals by weekday and hour.
pub fn heat_map(service: &Service) -> Result<String> {
    const LEFT: i32 = 40;
    const CELL: (i32, i32) = (13, 26);
    let most = service.week.iter().max().copied().unwrap_or(0).max(1);
    let height = 8 + 7 * CELL.1 + 28;
    svg("Arrivals by hour and weekday", height as u32, |area| {
        for (day, name) in WEEKDAYS.iter().enumerate() {
            let top = 8 + day as i32 * CELL.1;
            let style = font(15, &INK).pos(Pos::new(HPos::Right, VPos::Center));
            write(area, name, (LEFT - 8, top + CELL.1 / 2), style)?;
            for hour in 0..24 {
                let left = LEFT + hour as i32 * CELL.0;
                let corners = [(left, top), (left + CELL.0 - 1, top + CELL.1 - 1)];
                let count = service.week.get(day * 24 + hour).copied().unwrap_or(0);
                let colour = match count {
                    0 => FAINT.mix(0.5),
                    count => FIRST.mix(0.12 + 0.88 * f64::from(count) / f64::from(most)),
                };
                area.draw(&Rectangle::new(corners, colour.filled()))
                    .map_err(drawing)?;
            }
        }
        for hour in (0..=24).step_by(6) {
            let place = (LEFT + hour * CELL.0, 8 + 7 * CELL.1 + 6);
            let style = font(15, &INK).pos(Pos::new(HPos::Center, VPos::Top));
            write(area, &format!("{hour}h"), place, style)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_short() {
        let check = |seconds, expected| assert_eq!(short(seconds), expected);
        check(0.5, "0.5s");
        check(60.0, "1m");
        check(5400.0, "1.5h");
        check(604_800.0, "7d");
    }

    #[test]
    fn an_axis_has_figures_of_one_or_more() {
        let check = |seconds, expected| assert_eq!(unit(seconds).0, expected);
        check(0.0, "seconds");
        check(119.0, "seconds");
        check(120.0, "minutes");
        check(7_199.0, "minutes");
        check(7_200.0, "hours");
    }

    #[test]
    fn like_parts_are_one() {
        let parts = [0.0, 1.0, 1.0, 0.01, 0.0, 0.5];
        let found = stretches(&parts);
        assert_eq!(found, [(1, 3, 1.0), (3, 4, 1.0 / 12.0), (5, 6, 0.5)]);
    }
}
