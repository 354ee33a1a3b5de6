import CLibc
import Synchronization

/// How long to look before sleeping: about as long as a wake-up costs, less when looking fails, not at all on one processor.
enum Spin {
    /// Ticks in a microsecond; measured once, with the first companion.
    nonisolated(unsafe) private(set) static var ticksPerMicrosecond: UInt64 = 0
    nonisolated(unsafe) private static var most: UInt64 = 0
    /// Ticks that the next wait may spin. Races only lose an adjustment.
    private static let budget = Atomic<UInt64>(0)

    static func calibrate() {
        if ticksPerMicrosecond != 0 { return }
        let (nanoseconds, ticks) = (libc_nanoseconds(), libc_ticks())
        while libc_nanoseconds() &- nanoseconds < 20_000 {}
        let rate = max(1, (libc_ticks() &- ticks) / 20)
        most = settings.spinMicroseconds &* rate
        budget.store(most, ordering: .relaxed)
        ticksPerMicrosecond = rate
    }

    static func ticks(microseconds: UInt64) -> UInt64 { microseconds &* max(1, ticksPerMicrosecond) }

    /// Looks until `condition` holds or the budget is spent; whether it held.
    @inline(__always)
    static func until(_ condition: () -> Bool) -> Bool {
        let allowed = budget.load(ordering: .relaxed)
        guard allowed > 0 else { return false }
        let begin = libc_ticks()
        var rounds: UInt32 = 0
        repeat {
            if condition() { return true }
            libc_spin_hint()
            rounds &+= 1
        } while rounds & 7 != 0 || libc_ticks() &- begin < allowed
        return false
    }

    /// Learns from a sleep of `slept` ticks that followed a failed spin.
    static func learn(slept: UInt64) {
        let now = budget.load(ordering: .relaxed)
        if slept < most {
            budget.store(min(most, now &* 2 &+ most / 16), ordering: .relaxed)
        } else if now > 0 {
            budget.store(now &- now / 4 &- 1, ordering: .relaxed)
        }
    }
}
