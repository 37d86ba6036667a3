//! Several files into one tree. Sections come together; what is one thing, as a profile, is
//! given once.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    diagnostic::{Report, shown},
    shape::Shape,
    yaml::{Entry, Node, Value},
};

/// One tree of two.
pub(crate) fn merge(first: Rc<Node>, second: Rc<Node>, shape: Shape, report: &mut Report) -> Rc<Node> {
    if matches!(second.value, Value::Null) {
        return first;
    }
    if matches!(first.value, Value::Null) || !matches!(first.value, Value::Map(_)) {
        return second;
    }
    let mut entries: Vec<Entry> = first.entries().to_vec();
    let places: BTreeMap<String, usize> =
        entries.iter().enumerate().map(|(at, entry)| (entry.key.clone(), at)).collect();
    for entry in second.entries() {
        let Some(known) = places.get(&entry.key).and_then(|at| entries.get_mut(*at)) else {
            entries.push(entry.clone());
            continue;
        };
        match (shape.of(&entry.key), &known.node.value, &entry.node.value) {
            (Some(inner), ..) if inner.comes_together() => {
                known.node = merge(Rc::clone(&known.node), Rc::clone(&entry.node), inner, report);
            }
            (Some(Shape::List(_)), Value::List(old), Value::List(new)) => {
                let items = old.iter().chain(new).map(Rc::clone).collect();
                known.node = Rc::new(Node::new(known.node.place, Value::List(items)));
            }
            _ => {
                let message = format!(
                    "{} is given in two files: it is already at {}",
                    shown(&entry.key),
                    report.at(known.place)
                );
                report.error_with(entry.place, message, "keep one of them, or give the other another name");
            }
        }
    }
    Rc::new(Node::new(first.place, Value::Map(entries)))
}
