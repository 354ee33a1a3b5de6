import CLibc
import CProvider
import CVerbs
import Libc
import Synchronization

/// The provider's one thread: connection management, notifications, completions that nobody waits for. It starts with the first
/// listener or connection, loads the libraries, and sleeps while nothing happens.
enum Worker {
    /// A device and its completion channel.
    struct Device {
        var context: UnsafeMutableRawPointer?
        var channel: UnsafeMutableRawPointer?
        var isLost = false
    }

    private static let bellData: UInt64 = 1
    private static let eventsData: UInt64 = 2
    private static let deviceData: UInt64 = 16
    static let deviceLimit = 16
    /// How often links with a time limit are looked at, milliseconds.
    private static let tick: CInt = 50

    /// Links that the program has left word in; a stack, pushed by anybody, taken whole by the worker.
    private static let work = Atomic<UInt>(0)
    /// 0: none, 1: running.
    private static let isRunning = Atomic<UInt32>(0)
    nonisolated(unsafe) private static var set: CInt = -1
    nonisolated(unsafe) private static var bell: CInt = -1
    nonisolated(unsafe) private static var devices = InlineArray<16, Device>(repeating: Device())
    nonisolated(unsafe) private static var deviceCount = 0
    /// Descriptors that fork's child closes.
    nonisolated(unsafe) private static var descriptors = InlineArray<64, CInt>(repeating: -1)
    nonisolated(unsafe) private static var descriptorCount = 0
    /// Why there are no verbs in this process: an errno; 0 when there are.
    nonisolated(unsafe) private static var trouble: CInt = 0
    /// 1: somebody sleeps with transfers on their way, which may fail.
    private static let isWatching = Atomic<UInt32>(0)
    nonisolated(unsafe) private static var nextWatch: UInt64 = 0
    private static let watchTick: CInt = 1000
    /// Links that have a deadline.
    nonisolated(unsafe) static var isTimed = false

    /// Has the worker look at `link`.
    static func queue(_ link: LinkRef) {
        guard link.pointee.isQueued.exchange(1, ordering: .acquiringAndReleasing) == 0 else { return }
        var head = work.load(ordering: .relaxed)
        while true {
            link.pointee.nextWork = LinkRef(bitPattern: head)
            let (done, seen) = work.compareExchange(
                expected: head, desired: UInt(bitPattern: link), ordering: .acquiringAndReleasing)
            if done { break }
            head = seen
        }
        var one: UInt64 = 1
        if bell >= 0 { _ = sys_write(bell, &one, 8) }
    }

    static var isStarted: Bool { isRunning.load(ordering: .acquiring) != 0 }

    /// False: no thread or no descriptors, and no RDMA therefore.
    static func start() -> Bool {
        LinkPool.lock.lock()
        defer { LinkPool.lock.unlock() }
        if isRunning.load(ordering: .relaxed) != 0 { return true }
        let event = sys_eventfd()
        let epoll = sys_epoll_create1(CInt(EPOLL_CLOEXEC))
        guard event >= 0, epoll >= 0 else {
            if event >= 0 { _ = sys_close(CInt(event)) }
            if epoll >= 0 { _ = sys_close(CInt(epoll)) }
            return false
        }
        bell = place(CInt(event))
        set = place(CInt(epoll))
        note(set)
        guard bell >= 0, set >= 0, watch(bell, bellData), libc_start_thread({ _ in Worker.run() }, nil) == 0 else {
            return false
        }
        isRunning.store(1, ordering: .releasing)
        return true
    }

    private static func note(_ fd: CInt) {
        guard fd >= 0, descriptorCount < 64 else { return }
        descriptors[descriptorCount] = fd
        descriptorCount &+= 1
    }

    private static func watch(_ fd: CInt, _ data: UInt64) -> Bool {
        note(fd)
        var event = libc_epoll_event(UInt32(EPOLLIN.rawValue), data)
        return sys_epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0
    }

    // MARK: The thread

    private static func run() -> UnsafeMutableRawPointer? {
        libc_enter_provider()
        trouble = begin()
        return withUnsafeTemporaryAllocation(of: epoll_event.self, capacity: 64) { events in
            while true {
                let isWatched = isWatching.load(ordering: .relaxed) != 0
                let count = sys_epoll_wait(set, events.baseAddress, 64, isTimed ? tick : isWatched ? watchTick : -1)
                for i in 0..<max(0, count) { handle(libc_epoll_data(events.baseAddress! + i)) }
                if isTimed { expire() }
                if isWatched { lookAtSends() }
            }
        }
    }

    private static func begin() -> CInt {
        let loaded = verbs_load()
        guard loaded == 0 else { return 0 &- loaded }
        let channel = verbs_channel { place($0) }
        guard channel >= 0 else { return 0 &- channel }
        return watch(channel, eventsData) ? 0 : EMFILE
    }

    private static func handle(_ data: UInt64) {
        switch data {
        case bellData:
            var count: UInt64 = 0
            _ = sys_read(bell, &count, 8)
            takeWork()
        case eventsData:
            var event = verbs_event()
            while verbs_next_event(&event) == 0 { take(&event) }
        default:
            let index = Int(truncatingIfNeeded: (data &- deviceData) / 2)
            guard index < deviceCount else { return }
            data & 1 == 0 ? takeCompletions(index) : takeDeviceEvents(index)
        }
    }

    private static func takeWork() {
        var next = LinkRef(bitPattern: work.exchange(0, ordering: .acquiringAndReleasing))
        while let link = next {
            next = link.pointee.nextWork
            link.pointee.isQueued.store(0, ordering: .sequentiallyConsistent)
            link.work(trouble)
        }
    }

    private static func take(_ event: inout verbs_event) {
        guard let link = event.context?.assumingMemoryBound(to: Link.self) else { return }
        if event.kind == UInt32(VERBS_REQUEST) { return link.meet(&event) }
        guard link.pointee.identifier == event.identifier else { return }
        link.hear(event.kind)
    }

    private static func takeCompletions(_ index: Int) {
        var isSend = false
        while let context = verbs_next_completion_event(devices[index].channel, { Worker.queues(of: $0) }, &isSend) {
            let link = context.assumingMemoryBound(to: Link.self)
            isSend ? link.takeSent() : link.takeReceived()
        }
    }

    private static func queues(of context: UnsafeMutableRawPointer?) -> UnsafePointer<verbs_queues>? {
        guard let link = context?.assumingMemoryBound(to: Link.self) else { return nil }
        return withUnsafePointer(to: &link.pointee.queues) { $0 }
    }

    private static func takeDeviceEvents(_ index: Int) {
        guard verbs_device_event(devices[index].context) else { return }
        devices[index].isLost = true
        let context = devices[index].context
        LinkPool.forEach { link in
            if let identifier = link.pointee.identifier, verbs_device(identifier) == context { link.end(ENODEV) }
        }
    }

    private static func expire() {
        let now = libc_nanoseconds()
        isTimed = false
        LinkPool.forEach { link in
            guard link.pointee.deadline != 0 else { return }
            if link.pointee.deadline > now {
                isTimed = true
            } else {
                link.pointee.deadline = 0
                link.giveUp()
            }
        }
    }

    /// Has the worker look for failed transfers once a second, until none are on their way: their completions are otherwise taken by
    /// the next push, and who sleeps makes none.
    static func watchSends() {
        guard isWatching.exchange(1, ordering: .acquiringAndReleasing) == 0 else { return }
        var one: UInt64 = 1
        if bell >= 0 { _ = sys_write(bell, &one, 8) }
    }

    private static func lookAtSends() {
        let now = libc_nanoseconds()
        guard now >= nextWatch else { return }
        nextWatch = now &+ UInt64(watchTick) &* 1_000_000
        isWatching.store(0, ordering: .sequentiallyConsistent)
        LinkPool.forEach { link in
            guard link.pointee.phase.load(ordering: .acquiring) == Link.Phase.established else { return }
            link.pointee.lock.lock()
            link.reap()
            if link.pointee.flow.used > 0 { isWatching.store(1, ordering: .relaxed) }
            link.pointee.lock.unlock()
        }
    }

    /// The completion channel for a device; nil: there is none, or the device is lost.
    static func channel(of context: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer? {
        for i in 0..<deviceCount where devices[i].context == context {
            return devices[i].isLost ? nil : devices[i].channel
        }
        guard deviceCount < deviceLimit else { return nil }
        var numbers = verbs_descriptors()
        guard let channel = verbs_open(context, { place($0) }, &numbers) else { return nil }
        let data = deviceData &+ UInt64(deviceCount) &* 2
        guard watch(numbers.channel, data) else { return nil }
        if numbers.events >= 0 { _ = watch(numbers.events, data &+ 1) }
        note(numbers.commands)
        devices[deviceCount] = Device(context: context, channel: channel)
        deviceCount &+= 1
        return channel
    }

    /// The program needs the number `from`; the same file is open as `to`. False: none of the worker's.
    static func renumber(_ from: CInt, _ to: CInt) -> Bool {
        for i in 0..<descriptorCount where descriptors[i] == from {
            // What all links need cannot be given up.
            guard to >= 0 else { return false }
            descriptors[i] = to
            if bell == from {
                bell = to
            } else if set == from {
                set = to
            } else {
                for j in 0..<max(1, deviceCount) where verbs_renumber(devices[j].context, devices[j].channel, from, to)
                { break }
            }
            return true
        }
        return false
    }

    // MARK: fork

    /// The child has no worker and no queues. What it inherited is closed, so that the kernel takes the parent's queues down with
    /// the parent.
    static func forgetInChild() {
        for i in 0..<descriptorCount { release(descriptors[i]) }
        descriptorCount = 0
        LinkPool.forEach { link in
            release(link.pointee.far)
            link.pointee.far = -1
        }
        bell = -1
        set = -1
    }
}
