import CLibc
import CProvider
import Libc
import Registry
import SANRdma
import SANShm
import Synchronization

/// Finding providers: at the first listener or connection that one may serve, and again when a registration comes or goes. A
/// provider that cannot be used leaves the others alone; `sanswitch doctor` says what is wrong with it.
extension Providers {
    private static let period: UInt64 = 1_000_000_000
    /// When to look at the directories again, nanoseconds.
    private static let nextLook = Atomic<UInt64>(0)
    /// 1: a thread is looking; the others go on with the providers there are.
    private static let isLooking = Atomic<UInt32>(0)
    nonisolated(unsafe) private static var stamp: UInt64 = 0
    /// The addresses of this host's RDMA devices at the last look.
    nonisolated(unsafe) private static var nics: UInt64 = 0
    /// Counts the looks; a provider that the last one did not find is registered no longer.
    nonisolated(unsafe) private static var round: UInt64 = 0
    /// The process that called the start-ups.
    nonisolated(unsafe) private static var starter: UInt32 = 0

    /// Looks whether registrations have come or gone, at most once a second. For calls that make connections; without locks.
    static func refresh() {
        guard libc_nanoseconds() >= nextLook.load(ordering: .relaxed),
            isLooking.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged
        else { return }
        let saved = libc_errno()
        let now = Registry.stamp(settings.providerPath)
        let addresses = RdmaIdentity.stamp
        if now == 0 || now != stamp || round == 0 || addresses != nics {
            rescan()
            if addresses != nics { readSubnets() }
        }
        (stamp, nics) = (now, addresses)
        nextLook.store(libc_nanoseconds() &+ period, ordering: .relaxed)
        libc_set_errno(saved)
        isLooking.store(0, ordering: .releasing)
    }

    private static func rescan() {
        round &+= 1
        starter = Process.pid
        let before = count
        Registry.forEachFile(settings.providerPath) { file in
            do throws(Registration.Fault) {
                take(try Registration(file: file))
            } catch {
                logText("registration ignored", file, error.text)
            }
        }
        Choice.forEachLibrary { path in
            guard let name = strdup(path), let library = strdup(path) else { return }
            take(Registration(name: name, guid: nil, library: library, order: 0))
        }
        takeEmbedded()
        takeRdma()
        if settle() || count != before { Broker.extend() }
    }

    /// The embedded provider is there without a file, too.
    private static func takeEmbedded() {
        guard let embedded, embedded.pointee.round != round,
            let position = Choice.position(of: embedded.pointee.name, library: nil)
        else { return }
        embedded.pointee.round = round
        embedded.pointee.order = settings.providers == nil ? ShmIdentity.order : position
    }

    /// So is the provider for other hosts, on hosts that have a device for it.
    private static func takeRdma() {
        let registration = Registration(
            name: RdmaIdentity.name, guid: RdmaIdentity.guid, library: nil, order: RdmaIdentity.order)
        guard let position = Choice.position(of: registration.name, library: nil) else { return }
        if known(registration) == nil {
            guard RdmaIdentity.stamp != 0 else { return }
            _ = start(registration, RdmaIdentity.order)
        }
        guard let provider = known(registration), provider.pointee.round != round else { return }
        provider.pointee.round = round
        provider.pointee.order = settings.providers == nil ? RdmaIdentity.order : position
    }

    /// The addresses of NICs have changed.
    private static func readSubnets() {
        lock.lock()
        var next = first
        while let provider = next {
            provider.pointee.subnets.read(provider.pointee.functions)
            next = provider.pointee.next
        }
        lock.unlock()
    }

    /// Uses what a registration names, or notes why not.
    private static func take(_ registration: Registration) {
        guard let position = Choice.position(of: registration.name, library: registration.library) else {
            return registration.discard()
        }
        let order = settings.providers == nil ? registration.order : position
        if let provider = known(registration) {
            if provider.pointee.round != round {
                provider.pointee.round = round
                provider.pointee.order = order
            }
            return registration.discard()
        }
        if let refusal = start(registration, order) {
            logText("provider refused", registration.name, refusal.cause.text, refusal.number)
            if refusal.what.utf8CodeUnitCount > 0 { logText("it lacks", registration.name, refusal.what) }
            registration.discard()
        }
    }

    /// The provider of a registration, started again if it had been cleaned up.
    private static func known(_ registration: Registration) -> ProviderRef? {
        var next = first
        while let provider = next {
            if provider.isRegistered(as: registration) {
                return provider.pointee.isStarted || restart(provider) ? provider : nil
            }
            next = provider.pointee.next
        }
        return nil
    }

    private static func load(_ registration: Registration, _ tables: inout ProviderTables) -> Refusal? {
        guard let library = registration.library else {
            guard strcmp(registration.name, RdmaIdentity.name) == 0 else { return Refusal(.unknownBuiltIn) }
            return tables.start(rdmaStartup, upcalls: Upcalls.table, guid: registration.guid)
        }
        let (symbol, refusal) = ProviderTables.symbol(of: library)
        guard let symbol else { return refusal }
        return tables.start({ symbol($0, $1, $2, $3, $4) }, upcalls: Upcalls.table, guid: registration.guid)
    }

    private static func start(_ registration: Registration, _ order: Int) -> Refusal? {
        if count == capacity { return Refusal(.tooMany) }
        var tables = ProviderTables()
        if let refusal = load(registration, &tables) { return refusal }
        var registration = registration
        registration.order = order
        lock.lock()
        let provider = add(tables, registration)
        lock.unlock()
        provider?.pointee.round = round
        logText("provider started", registration.name, "as number", CInt(count - 1))
        return nil
    }

    private static func restart(_ provider: ProviderRef) -> Bool {
        let registration = Registration(
            name: provider.pointee.name, guid: provider.pointee.info.guid, library: provider.pointee.library, order: 0)
        var tables = ProviderTables()
        guard load(registration, &tables) == nil else { return false }
        provider.pointee.functions = tables.functions
        provider.pointee.direct = tables.direct
        provider.pointee.isStarted = true
        return true
    }

    /// Lists what was found in this round and nothing else. Whether one is listed anew.
    private static func settle() -> Bool {
        var isNew = false
        var next = first
        while let provider = next {
            next = provider.pointee.next
            let isFound = provider.pointee.round == round
            if isFound != provider.pointee.isListed {
                lock.lock()
                provider.pointee.isListed = isFound
                lock.unlock()
                isFound ? (isNew = true) : Broker.withdraw(provider)
                logText(isFound ? "provider listed" : "provider no longer listed", provider.pointee.name, "")
            }
            if !isFound { clean(provider) }
        }
        lock.lock()
        sort()
        lock.unlock()
        return isNew
    }

    /// The start-up's counterpart, once nothing of the provider is open.
    private static func clean(_ provider: ProviderRef) {
        guard provider.pointee.isStarted, provider != embedded, provider.pointee.sockets.load(ordering: .acquiring) == 0
        else { return }
        provider.pointee.isStarted = false
        _ = provider.pointee.functions.cleanup()
    }

    /// The process ends.
    static func stop() {
        guard starter == Process.pid, isLooking.load(ordering: .acquiring) == 0 else { return }
        var next = first
        while let provider = next {
            // What was pushed and has not left would end with the process.
            if provider.pointee.isStarted, provider.pointee.direct.push != nil {
                _ = provider.pointee.functions.cleanup()
            }
            clean(provider)
            next = provider.pointee.next
        }
    }

    static func forgetInChild() { isLooking.store(0, ordering: .relaxed) }
}
