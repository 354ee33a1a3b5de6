import CLibc
import Libc
import SessionState
import Synchronization

/// The memory in which this process keeps its sessions' shared state: a memfd that forked children share and the tools
/// read. Only the process that made it hands out slots; a child makes its own when it needs one.
enum SessionArena {
    nonisolated(unsafe) private static var base: UnsafeMutableRawPointer?
    nonisolated(unsafe) private static var owner: UInt32 = 0
    nonisolated(unsafe) private static var firstFree: Int = -1
    nonisolated(unsafe) private static var nextFree: UnsafeMutablePointer<Int32>?
    nonisolated(unsafe) private static var sweepAt = 64
    /// Kept open for the tools only; -1: none.
    nonisolated(unsafe) private static var descriptor: CInt = -1

    private static func create() -> Bool {
        let fd = SessionPage.name.withUTF8Buffer {
            $0.withMemoryRebound(to: CChar.self) { sys_memfd_create($0.baseAddress!, UInt32(MFD_CLOEXEC)) }
        }
        guard fd >= 0 else { return false }
        guard sys_ftruncate(CInt(fd), SessionPage.size) == 0,
            let memory = sys_map(SessionPage.size, CInt(fd), MAP_SHARED)
        else {
            _ = sys_close(CInt(fd))
            return false
        }
        guard let links = sys_map(SessionPage.capacity * 4, -1, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) else {
            sys_unmap(memory, SessionPage.size)
            _ = sys_close(CInt(fd))
            return false
        }
        descriptor = HiddenDescriptors.place(CInt(fd))
        // Without a number the sessions work, and the tools do not see them.
        if descriptor < 0 { _ = sys_close(CInt(fd)) }
        owner = UInt32(truncatingIfNeeded: sys_getpid())
        memory.storeBytes(of: SessionPage(pid: owner), as: SessionPage.self)
        base = memory
        nextFree = links.bindMemory(to: Int32.self, capacity: SessionPage.capacity)
        firstFree = -1
        sweepAt = 64
        return true
    }

    /// The program needs the number of our descriptor (GivingWay.swift).
    static func renumber(_ number: CInt, _ new: CInt) -> Bool {
        guardian.lock()
        defer { guardian.unlock() }
        guard descriptor == number else { return false }
        descriptor = new
        return true
    }

    private static func slot(_ index: Int) -> StateRef {
        (base.unsafelyUnwrapped + SessionPage.headerSize + index * SessionState.stride).assumingMemoryBound(
            to: SessionState.self)
    }

    /// A fresh state, held by this process; nil when memory or descriptors are exhausted.
    static func allocate(role: UInt32) -> StateRef? {
        guardian.lock()
        defer { guardian.unlock() }
        if base == nil || owner != Process.pid { guard create() else { return nil } }
        let page = base.unsafelyUnwrapped.assumingMemoryBound(to: SessionPage.self)
        if firstFree < 0, Int(page.pointee.highWater) >= sweepAt { sweep(Int(page.pointee.highWater)) }
        let index: Int
        if firstFree >= 0 {
            index = firstFree
            firstFree = Int(nextFree.unsafelyUnwrapped[index])
        } else {
            index = Int(page.pointee.highWater)
            guard index < SessionPage.capacity else { return nil }
            page.pointee.highWater &+= 1
        }
        let state = slot(index)
        state.initialize(to: SessionState(role: role))
        state.pointee.holder0.store(Process.pid, ordering: .relaxed)
        return state
    }

    /// Finds slots whose last holder was another process, or died.
    private static func sweep(_ highWater: Int) {
        var found = 0
        for index in 0..<highWater {
            let state = slot(index)
            if state.pointee.inUse.load(ordering: .acquiring) == 1, !state.isHeldByAnyone {
                state.pointee.inUse.store(0, ordering: .releasing)
            } else if state.pointee.inUse.load(ordering: .acquiring) != 0 {
                continue
            }
            nextFree.unsafelyUnwrapped[index] = Int32(truncatingIfNeeded: firstFree)
            firstFree = index
            found &+= 1
        }
        sweepAt = found < highWater / 4 ? highWater &* 2 : highWater
    }

    /// This process lets go of `state`; the last one frees it.
    static func release(_ state: StateRef) {
        state.removeHolder(Process.pid)
        guard !state.isHeldByAnyone else { return }
        state.pointee.inUse.store(0, ordering: .releasing)
        guardian.lock()
        defer { guardian.unlock() }
        guard let base, owner == Process.pid else { return }
        let distance = UnsafeMutableRawPointer(state) - base - SessionPage.headerSize
        guard distance >= 0, distance < SessionPage.size else { return }
        let index = distance / SessionState.stride
        nextFree.unsafelyUnwrapped[index] = Int32(truncatingIfNeeded: firstFree)
        firstFree = index
    }
}

typealias StateRef = UnsafeMutablePointer<SessionState>

extension UnsafeMutablePointer where Pointee == SessionState {
    /// Whether a process that still lives holds this connection; the dead are struck out.
    var isHeldByAnyone: Bool { liveHolders > 0 }

    var liveHolders: Int {
        var count = pointee.holdersOverflow.load(ordering: .relaxed) == 0 ? 0 : 8
        withHolders { place in
            let pid = place.load(ordering: .relaxed)
            if pid == 0 { return false }
            if pid != Process.pid, !sys_is_alive(CInt(bitPattern: pid)) {
                _ = place.compareExchange(expected: pid, desired: 0, ordering: .relaxed)
            } else {
                count &+= 1
            }
            return false
        }
        return count
    }

    func addHolder(_ pid: UInt32) {
        let placed = withHolders { $0.compareExchange(expected: 0, desired: pid, ordering: .relaxed).exchanged }
        if !placed, liveHolders >= 4 { pointee.holdersOverflow.store(1, ordering: .relaxed) }
    }

    func removeHolder(_ pid: UInt32) {
        withHolders { $0.compareExchange(expected: pid, desired: 0, ordering: .relaxed).exchanged }
    }

    /// The child takes over the hold that its parent took for it.
    func replaceHolder(_ parent: UInt32, _ child: UInt32) {
        if !withHolders({ $0.compareExchange(expected: parent, desired: child, ordering: .relaxed).exchanged }) {
            addHolder(child)
        }
    }

    /// Offers each place in turn until `body` returns true; whether one did.
    @discardableResult
    private func withHolders(_ body: (borrowing Atomic<UInt32>) -> Bool) -> Bool {
        body(pointee.holder0) || body(pointee.holder1) || body(pointee.holder2) || body(pointee.holder3)
    }
}
