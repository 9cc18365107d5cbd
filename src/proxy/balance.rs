//! Which of a version's endpoints a request goes to.

use std::rc::Rc;

use super::upstream::Endpoint;

/// The less loaded of two random endpoints; `draw` decides which two.
pub(super) fn choose(endpoints: &[Rc<Endpoint>], draw: u64) -> Option<Rc<Endpoint>> {
    let count = endpoints.len() as u64;
    let (first, second) = match count {
        0 => return None,
        1 => (0, 0),
        _ => {
            let first = (draw & u64::from(u32::MAX)) % count;
            (first, (first + 1 + (draw >> 32) % (count - 1)) % count)
        }
    };
    let at = |index: u64| usize::try_from(index).ok().and_then(|index| endpoints.get(index));
    let (first, second) = (at(first)?, at(second)?);
    Some(Rc::clone(if second.load() < first.load() { second } else { first }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(loads: &[u32]) -> Vec<Rc<Endpoint>> {
        loads.iter().map(|&load| Rc::new(Endpoint::under_load(load))).collect()
    }

    #[test]
    fn of_two_random_endpoints_the_less_loaded_is_chosen() {
        let two = endpoints(&[5, 3]);
        for draw in 0..100 {
            let chosen = choose(&two, fastrand::Rng::with_seed(draw).u64(..)).unwrap();
            assert_eq!(chosen.load(), 3);
        }
    }

    #[test]
    fn the_most_loaded_of_all_is_never_chosen_and_all_others_are() {
        let many = endpoints(&[0, 1, 2, 3, 9]);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut seen = [0; 10];
        for _ in 0..10_000 {
            seen[choose(&many, rng.u64(..)).unwrap().load() as usize] += 1;
        }
        assert_eq!(seen[9], 0);
        assert!(seen[..4].iter().all(|&count| count > 500), "{seen:?}");
        assert!(seen[0] > seen[3]);
    }

    #[test]
    fn without_endpoints_there_is_no_choice() {
        assert!(choose(&[], 1).is_none());
    }
}
