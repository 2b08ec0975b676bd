//! The figures as pictures: SVG that needs nothing else, in the colours that the reader's
//! screen is set to, light or dark.

use std::fmt::Write as _;

use anyhow::Result;
use ondemand::commands::report::drawing::{self, Area, drawing, font, number};
use plotters::{
    coord::ranged1d::ValueFormatter,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{report::Report, stats::Series};

/// One panel of a picture.
pub enum Plot {
    /// What was measured of each of a few.
    Bars(Bars),
    /// How something depends on something else.
    Lines(Lines),
}

/// Bars, from above to below.
pub struct Bars {
    /// What was measured.
    pub title: String,
    /// Of what.
    pub bars: Vec<(String, Series)>,
}

/// Lines through points that are sorted by their x.
pub struct Lines {
    /// What was measured.
    pub title: String,
    /// What the x are.
    pub x: String,
    /// Of both axes.
    pub scale: Scale,
    /// Names and points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Of both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Both start at zero.
    Linear,
    /// Points that are not above zero are left out.
    Logarithmic,
}

/// Pixels of a panel; two stand side by side.
const WIDTH: u32 = 440;
/// Of lines, without their legend.
const HEIGHT: u32 = 240;
/// Of a bar with its name above.
const BAR: i32 = 32;
const MARGIN: i32 = 14;
/// Of a panel's title.
const TITLE: i32 = 30;
/// Of a line in the legend.
const LEGEND: i32 = 16;

/// A colour on a light ground and on a dark one.
struct Shade {
    light: RGBColor,
    dark: RGBColor,
}

const fn shade(light: (u8, u8, u8), dark: (u8, u8, u8)) -> Shade {
    Shade {
        light: RGBColor(light.0, light.1, light.2),
        dark: RGBColor(dark.0, dark.1, dark.2),
    }
}

static GROUND: Shade = shade((255, 255, 255), (22, 24, 29));
static INK: Shade = shade((31, 35, 40), (213, 216, 222));
static FAINT: Shade = shade((225, 228, 232), (58, 62, 71));
static LINES: [Shade; 5] = [
    shade((31, 111, 235), (108, 182, 255)),
    shade((194, 65, 12), (255, 169, 77)),
    shade((43, 138, 62), (105, 219, 124)),
    shade((134, 46, 156), (218, 119, 242)),
    shade((146, 103, 0), (255, 212, 59)),
];

/// A panel for each kind of figure, with a bar for each thing that it was measured of.
pub fn bars(report: &Report) -> Vec<Plot> {
    let mut panels: Vec<Bars> = Vec::new();
    for figure in &report.figures {
        let bar = (figure.of.clone(), figure.series.clone());
        match panels.iter_mut().find(|panel| panel.title == figure.what) {
            Some(panel) => panel.bars.push(bar),
            None => panels.push(Bars {
                title: figure.what.clone(),
                bars: vec![bar],
            }),
        }
    }
    panels.into_iter().map(Plot::Bars).collect()
}

/// Draws these panels.
///
/// # Errors
///
/// There is nothing to be drawn.
pub fn svg(label: &str, plots: &[Plot]) -> Result<String> {
    let height = plots.iter().map(height).max().unwrap_or(HEIGHT);
    let rows = plots.len().div_ceil(2).max(1);
    let size = (2 * WIDTH, height * rows as u32);
    let text = drawing::svg(label, size, |area| {
        area.fill(&GROUND.light).map_err(drawing)?;
        for (panel, plot) in area.split_evenly((rows, 2)).iter().zip(plots) {
            match plot {
                Plot::Bars(bars) => draw_bars(panel, bars)?,
                Plot::Lines(lines) => draw_lines(panel, lines)?,
            }
        }
        Ok(())
    })?;
    // Behind the svg's own tag.
    let (tag, rest) = text
        .split_once(">\n")
        .ok_or_else(|| drawing("no picture"))?;
    Ok(format!("{tag}>\n{}{rest}", dark()))
}

fn height(plot: &Plot) -> u32 {
    match plot {
        Plot::Bars(bars) => {
            let bars = BAR * bars.bars.len() as i32;
            (TITLE + bars + MARGIN) as u32
        }
        Plot::Lines(lines) => HEIGHT + LEGEND as u32 * lines.lines.len() as u32,
    }
}

/// The style sheet that makes it dark.
fn dark() -> String {
    let mut rules = String::from("<style>@media (prefers-color-scheme: dark){");
    for Shade { light, dark } in [&GROUND, &INK, &FAINT].into_iter().chain(&LINES) {
        let (light, dark) = (hex(*light), hex(*dark));
        for what in ["fill", "stroke"] {
            // Writing to a string cannot fail.
            let _ = write!(rules, "[{what}=\"{light}\"]{{{what}:{dark}}}");
        }
    }
    rules + "}</style>\n"
}

/// As plotters writes it.
fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    style: TextStyle<'_>,
    to: HPos,
) -> Result<()> {
    drawing::write(area, text, at, style.pos(Pos::new(to, VPos::Center)))
}

fn title(area: &Area<'_>, text: &str) -> Result<()> {
    let at = (MARGIN, TITLE / 2);
    write(area, text, at, font(18, &INK.light), HPos::Left)
}

/// Bars to the medians, with a line from end to end of the middle half.
fn draw_bars(area: &Area<'_>, bars: &Bars) -> Result<()> {
    title(area, &bars.title)?;
    let right = WIDTH as i32 - MARGIN;
    let ends = bars.bars.iter().map(|(_, series)| *series.spread().end());
    let longest = ends
        .filter(|end| end.is_finite())
        .fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| {
        let part = (value / longest).clamp(0.0, 1.0);
        MARGIN + (part * f64::from(right - MARGIN)) as i32
    };
    for (place, (name, series)) in (0..).zip(&bars.bars) {
        let top = TITLE + place * BAR;
        let value = match series.median() {
            median if median.is_nan() => "-".to_owned(),
            median => number(median),
        };
        let small = || font(15, &INK.light);
        write(area, name, (MARGIN, top + 7), small(), HPos::Left)?;
        write(area, &value, (right, top + 7), small(), HPos::Right)?;
        let bar = |from, to, colour: RGBColor| Rectangle::new([from, to], colour.filled());
        let (upper, lower) = (top + 15, top + 25);
        area.draw(&bar((MARGIN, upper), (right, lower), FAINT.light))
            .map_err(drawing)?;
        if series.median().is_nan() {
            continue;
        }
        let colour = LINES[place as usize % LINES.len()].light;
        area.draw(&bar((MARGIN, upper), (x(series.median()), lower), colour))
            .map_err(drawing)?;
        let spread = series.spread();
        let middle = (upper + lower) / 2;
        let whisker = [(x(*spread.start()), middle), (x(*spread.end()), middle)];
        area.draw(&PathElement::new(whisker, INK.light.stroke_width(2)))
            .map_err(drawing)?;
    }
    Ok(())
}

fn draw_lines(area: &Area<'_>, lines: &Lines) -> Result<()> {
    title(area, &lines.title)?;
    for (place, (name, _)) in (0..).zip(&lines.lines) {
        let colour = LINES[place as usize % LINES.len()].light;
        let at = (MARGIN, TITLE + 6 + place * LEGEND);
        write(
            area,
            &format!("— {name}"),
            at,
            font(15, &colour),
            HPos::Left,
        )?;
    }
    let legend = TITLE + LEGEND * lines.lines.len() as i32;
    let (_, chart) = area.split_vertically(legend);
    let points = || lines.lines.iter().flat_map(|(_, points)| points);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN_POSITIVE, f64::max);
    let least = |values: &mut dyn Iterator<Item = f64>| {
        values.filter(|value| *value > 0.0).fold(f64::MAX, f64::min)
    };
    let (right, top) = (
        most(&mut points().map(|point| point.0)),
        most(&mut points().map(|point| point.1)),
    );
    match lines.scale {
        Scale::Linear => {
            let ranges = (0.0..right, 0.0..top * 1.08);
            let chart = builder(&chart).build_cartesian_2d(ranges.0, ranges.1);
            draw_series(chart.map_err(drawing)?, lines)
        }
        Scale::Logarithmic => {
            let x = least(&mut points().map(|point| point.0)).min(right / 2.0);
            let y = least(&mut points().map(|point| point.1)).min(top / 2.0);
            let ranges = ((x..right).log_scale(), (y / 3.0..top * 3.0).log_scale());
            let chart = builder(&chart).build_cartesian_2d(ranges.0, ranges.1);
            draw_series(chart.map_err(drawing)?, lines)
        }
    }
}

fn builder<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(MARGIN)
        .x_label_area_size(34)
        .y_label_area_size(46);
    builder
}

fn draw_series<X, Y>(
    mut chart: ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    lines: &Lines,
) -> Result<()>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT.light)
        .axis_style(FAINT.light)
        .x_desc(lines.x.as_str())
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| number(*value))
        .label_style(font(14, &INK.light))
        .axis_desc_style(font(14, &INK.light))
        .draw()
        .map_err(drawing)?;
    for (place, (_, points)) in lines.lines.iter().enumerate() {
        let colour = LINES[place % LINES.len()].light;
        let shown = |point: &&(f64, f64)| lines.scale == Scale::Linear || point.1 > 0.0;
        let points: Vec<_> = points.iter().filter(shown).copied().collect();
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))
            .map_err(drawing)?;
        chart
            .draw_series(
                points
                    .into_iter()
                    .map(|at| Circle::new(at, 3, colour.filled())),
            )
            .map_err(drawing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_light_and_dark() {
        let series = |values: &[f64]| Series(values.to_vec());
        let plots = [
            Plot::Bars(Bars {
                title: "requests/s".to_owned(),
                bars: vec![
                    ("a & b".to_owned(), series(&[1.0, 2.0, 3.0])),
                    ("nothing".to_owned(), series(&[])),
                ],
            }),
            Plot::Lines(Lines {
                title: "ms".to_owned(),
                x: "connections".to_owned(),
                scale: Scale::Logarithmic,
                lines: vec![("it".to_owned(), vec![(10.0, 0.0), (1e5, 20.0)])],
            }),
        ];
        let svg = svg("a \"bench\"", &plots).unwrap();
        assert!(svg.contains("aria-label=\"a &quot;bench&quot;\""), "{svg}");
        assert!(svg.contains("a &amp; b"), "{svg}");
        let dark = dark();
        assert!(svg.contains(&dark), "{svg}");
        // Every colour that is drawn has a dark one.
        let colours = svg.split('"').filter(|word| word.starts_with('#'));
        let unknown: Vec<&str> = colours.filter(|colour| !dark.contains(*colour)).collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }
}
