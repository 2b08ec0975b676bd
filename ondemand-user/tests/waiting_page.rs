//! The page that browsers see while an application starts, on any screen.

use std::{path::Path, time::Duration};

use ondemand_core::waiting::{Moment, Template};
use serde_json::Value;
use tests::{browser::Look, require, skip};

const PROBE: &str = r##"
const bar = document.querySelector(".bar span");
const result = {
  width: innerWidth,
  scroll: document.documentElement.scrollWidth,
  ground: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.querySelector("h1")).color,
  animation: getComputedStyle(bar).animationName,
  bar: bar.getBoundingClientRect().width / bar.parentElement.getBoundingClientRect().width,
  usual: document.querySelector(".usual").getBoundingClientRect().width,
  heading: document.querySelector("h1").getBoundingClientRect().right,
  shown: getComputedStyle(document.querySelector(".waiting")).display,
};
tell(result);
"##;

/// What a browser makes of the page in a window of this width.
fn look(directory: &Path, page: &str, width: u32, dark: bool) -> Value {
    let look = Look {
        directory,
        width,
        dark,
    };
    look.at(page, PROBE).unwrap()
}

#[test]
fn the_page_fits_any_screen() {
    require!(skip::missing(&["chromium"]));
    let directory = tempfile::tempdir().unwrap();
    let moment = |usual| Moment {
        name: "a-service-with-a-name-that-is-as-long-as-one-may-be-63-letters_",
        waited: Duration::from_secs(1),
        started: Duration::from_secs(3),
        usual,
        nonce: "abc",
    };
    let page = |usual| {
        let text = Template::default().begin(&moment(usual));
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    };
    let known = page(Some(Duration::from_secs(10)));
    let mut grounds = Vec::new();
    for (width, dark) in [(320, false), (390, true), (1200, false), (1200, true)] {
        let seen = look(directory.path(), &known, width, dark);
        let number = |key: &str| seen[key].as_f64().unwrap();
        assert!(number("scroll") <= number("width"), "{width}: {seen}");
        assert!(number("heading") <= number("width"), "{width}: {seen}");
        assert_ne!(seen["ground"], seen["ink"]);
        assert_eq!(seen["animation"], "grow", "{seen}");
        assert!((0.29..0.45).contains(&number("bar")), "{seen}");
        assert!(number("usual") > 0.0, "{seen}");
        grounds.push((dark, seen["ground"].clone()));
    }
    let light = grounds.iter().filter(|(dark, _)| !dark);
    for (_, ground) in light {
        assert!(
            grounds
                .iter()
                .all(|(dark, other)| *dark == (other != ground))
        );
    }
    // Where nothing is known nothing is said, and the bar does not promise anything.
    let seen = look(directory.path(), &page(None), 390, false);
    assert_eq!(seen["animation"], "slide", "{seen}");
    assert_eq!(seen["usual"], 0, "{seen}");
    // A failure replaces it.
    let failed = known + &moment(None).failed();
    let seen = look(directory.path(), &failed, 390, false);
    assert_eq!(seen["shown"], "none", "{seen}");
}
