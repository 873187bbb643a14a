//! What people and programs are told.

use crate::axis::Axis;
use crate::grow::{Growth, Layer};
use crate::judge::{any, lossless, source};
use lemon_check::report::{Demands, Report};
use lemon_check::testing::Architecture;

#[test]
fn the_kind_of_expansion_is_told_to_people_and_to_programs() {
    let source = source(Architecture::Llama, 0, any);
    let mut growth = Growth::none(&source.model, 0);
    let sizes = &source.model.sizes;
    growth.hidden = Axis::tiled(sizes.hidden, 2);
    growth.layers.iter_mut().for_each(|l| l.neurons = Axis::tiled(sizes.intermediate, 2));
    growth.layers.push(Layer { silent: true, ..growth.layers[0].clone() });
    let found = lossless(&source, &growth.build(&source), &growth.hidden, "all kinds");
    let report = Report::new(found, Demands::default(), 0.0);
    let (text, json) = (report.text(), report.json());
    let (hidden, neurons, layers) = (sizes.hidden, sizes.intermediate, sizes.layers);
    let copied = format!("{hidden} → {}: every channel copied 2 times", 2 * hidden);
    let shares = "split in equal shares (as Net2Net): copies stay copies in training";
    let lines = [
        ("hidden", format!("{copied}, read in equal shares")),
        ("neurons", format!("{neurons} → {}: 2 copies each, fan-outs {shares}", 2 * neurons)),
        ("heads", format!("{}: as they are", sizes.heads)),
        (
            "depth",
            format!(
                "{layers} → {}: new layers write zero (block expansion): layer {layers}",
                layers + 1
            ),
        ),
    ];
    for (space, words) in lines {
        assert!(text.contains(&format!("{space}: {words}\n")), "{space}: {words}\n{text}");
        let entry = format!("\"space\": \"{space}\",\n      \"words\": \"{words}\"");
        assert!(json.contains(&entry), "{entry}\n{json}");
    }
}
