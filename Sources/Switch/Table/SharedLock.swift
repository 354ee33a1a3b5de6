import CLibc
import Synchronization

/// A lock in memory that several processes share. The word holds the owner's thread id; the top bit says that somebody
/// waits. An owner that died (SIGKILL) is noticed by the waiters and replaced, since all state guarded by it is valid at every
/// store (a cursor is published last).
struct SharedLock {
    static let waiters: UInt32 = 1 << 31

    let word: UnsafeMutablePointer<Atomic<UInt32>>

    @inline(__always)
    func lock() {
        if !word.pointee.compareExchange(expected: 0, desired: libc_thread_id(), ordering: .acquiring).exchanged {
            wait()
        }
    }

    @inline(__always)
    func unlock() {
        if word.pointee.exchange(0, ordering: .releasing) & Self.waiters != 0 { wake() }
    }

    @inline(never)
    private func wake() { _ = sys_futex(raw, FUTEX_WAKE, 1, nil) }

    private var raw: UnsafeMutablePointer<UInt32> { UnsafeMutableRawPointer(word).assumingMemoryBound(to: UInt32.self) }

    @inline(never)
    private func wait() {
        let me = libc_thread_id()
        var rounds = 0
        while true {
            let seen = word.pointee.load(ordering: .relaxed)
            if seen == 0 {
                // Others may still wait: take it with their bit set, so that our unlock wakes one.
                let desired = rounds < 64 ? me : me | Self.waiters
                if word.pointee.compareExchange(expected: 0, desired: desired, ordering: .acquiring).exchanged {
                    return
                }
                continue
            }
            rounds &+= 1
            if rounds < 64 {
                libc_spin_hint()
                continue
            }
            let marked = seen | Self.waiters
            if seen != marked,
                !word.pointee.compareExchange(expected: seen, desired: marked, ordering: .relaxed).exchanged
            {
                continue
            }
            var timeout = timespec(tv_sec: 0, tv_nsec: 50_000_000)
            if sys_futex(raw, FUTEX_WAIT, marked, &timeout) == -Int(ETIMEDOUT),
                !sys_is_alive(CInt(seen & ~Self.waiters))
            {
                if word.pointee.compareExchange(expected: marked, desired: me | Self.waiters, ordering: .acquiring)
                    .exchanged
                {
                    return
                }
            }
        }
    }
}
