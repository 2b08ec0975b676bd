//! Which host a service lives on. It stays there: nobody moves a systemd unit.

use std::cmp::Reverse;

/// Maximum number of fleets that are tried beside each other.
const MOST_FLEETS: usize = 12;

/// Services by falling memory, those of the same in their order.
fn largest_first(memory: &[u64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..memory.len()).collect();
    order.sort_by_key(|service| Reverse(memory[*service]));
    order
}

/// The host of each service: by falling memory the first with room for it. When none has, the first on which the
/// memory of its services is the lowest multiple of its own.
pub(super) fn first_fit(memory: &[u64], hosts: u32, capacity: u64) -> Vec<u32> {
    let mut placed = vec![0_u64; hosts as usize];
    let mut homes = vec![0; memory.len()];
    for service in largest_first(memory) {
        let (mut home, mut lowest) = (0, u64::MAX);
        for (host, used) in placed.iter().enumerate() {
            let multiple = (used + memory[service]).div_ceil(capacity);
            if multiple < lowest {
                (home, lowest) = (host, multiple);
            }
            if lowest <= 1 {
                break;
            }
        }
        placed[home] += memory[service];
        homes[service] = home as u32;
    }
    homes
}

/// How many hosts first fit takes if all services are up, always.
pub(super) fn always_up(memory: &[u64], capacity: u64) -> u32 {
    let mut placed: Vec<u64> = Vec::new();
    for service in largest_first(memory) {
        let fits = |used: &&mut u64| **used + memory[service] <= capacity;
        match placed.iter_mut().find(fits) {
            Some(used) => *used += memory[service],
            None => placed.push(memory[service]),
        }
    }
    placed.len() as u32
}

/// Numbers of hosts to try, falling: all, three quarters, the half, and so on.
pub(super) fn fleets(hosts: u32) -> Vec<u32> {
    let mut fleets = Vec::new();
    let mut power = hosts;
    while power > 0 && fleets.len() < MOST_FLEETS {
        fleets.push(power);
        let between = power - power / 4;
        if between < power && between > power / 2 {
            fleets.push(between);
        }
        power /= 2;
    }
    fleets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_has_room() {
        #[track_caller]
        fn check(memory: &[u64], hosts: u32, expected: &[u32]) {
            assert_eq!(first_fit(memory, hosts, 10), expected, "{memory:?}");
        }
        check(&[], 2, &[]);
        check(&[6, 4, 5], 2, &[0, 0, 1]);
        check(&[3, 7, 6, 4], 2, &[0, 0, 1, 1]);
        // Full: twice the memory of each host, then three times.
        check(&[10, 10, 10, 10, 10], 2, &[0, 1, 0, 1, 0]);
        check(&[10, 6, 6], 2, &[0, 1, 0]);
    }

    #[test]
    fn hosts_for_all() {
        assert_eq!(always_up(&[], 10), 0);
        assert_eq!(always_up(&[6, 5, 4, 5], 10), 2);
        assert_eq!(always_up(&[6, 6, 6], 10), 3);
    }

    #[test]
    fn which_fleets_are_tried() {
        assert_eq!(fleets(1), [1]);
        assert_eq!(fleets(2), [2, 1]);
        assert_eq!(fleets(3), [3, 1]);
        assert_eq!(fleets(8), [8, 6, 4, 3, 2, 1]);
        assert_eq!(fleets(20), [20, 15, 10, 8, 5, 4, 2, 1]);
        assert!(fleets(10_000).len() <= MOST_FLEETS + 1);
    }
}
