import CLibc
import CProvider
import Glibc
import Libc
import Registry
import Wire

/// What every provider must do, tried entry by entry between two companions of this process.
struct ConformanceSuite {
    let startup: ProviderTables.Startup
    let address: String?

    func run(_ report: inout ConformanceReport) {
        checkStartup(&report)
        var tables = ProviderTables()
        if let refusal = tables.start(startup, upcalls: ConformanceUpcalls.table, guid: nil) {
            let what = refusal.what.utf8CodeUnitCount > 0 ? " (\(refusal.what))" : ""
            let number = refusal.number == 0 ? "" : ": \(describe(refusal.number))"
            return report.row("M5", "mandatory functions are there", "\(refusal.cause.text)\(what)\(number)")
        }
        report.row("M5", "mandatory functions are there", nil)
        checkIdentity(tables, &report)
        checkExtensions(tables, &report)
        let before = openDescriptors()
        let host = address.flatMap(parse) ?? firstAddress(tables) ?? SocketAddress(ipv4: 0x7f00_0001, port: 0)
        checkSocket(tables, host, &report)
        var pair = CompanionPair(tables, host)
        if pair.checkListening(&report), pair.connect(&report) {
            pair.checkMessages(&report)
            pair.checkMemory(&report)
            pair.checkDoorbell(&report)
            pair.checkWaiting(&report)
            pair.checkDuplication(&report)
            pair.checkEnd(&report)
        }
        pair.close()
        let handles = ConformanceUpcalls.contexts.count
        report.row(
            "M12", "every handle is closed once, by the last upcall",
            handles == 0 && ConformanceUpcalls.mistakes == 0
                ? nil : "\(handles) left open, \(ConformanceUpcalls.mistakes) mistaken calls")
        let left = openDescriptors() - before
        report.row("M19", "close releases everything at once", left <= 0 ? nil : "\(left) descriptors left open")
        let cleaned = tables.functions.cleanup()
        report.row("M2", "clean-up after the last start-up succeeds", cleaned == 0 ? nil : answer(cleaned))
    }

    // MARK: Start-up

    private func start(_ version: UInt32, _ tcp: san_protocol, _ tables: inout ProviderTables) -> CInt {
        var (tcp, upcalls) = (tcp, ConformanceUpcalls.table)
        return startup(version, &tcp, &upcalls, &tables.functions, &tables.info)
    }

    private func checkStartup(_ report: inout ConformanceReport) {
        var tables = ProviderTables()
        let future = start(UInt32(SAN_ABI_VERSION) + 1000, ProviderTables.tcp, &tables)
        report.row("M2", "an unknown version is refused with ENOTSUP", future == -ENOTSUP ? nil : answer(future))
        let datagram = san_protocol(family: AF_INET, type: CInt(SOCK_DGRAM.rawValue), protocol: CInt(IPPROTO_UDP))
        let other = start(UInt32(SAN_ABI_VERSION), datagram, &tables)
        report.row("M2", "a caller that is not TCP's switch is refused", other < 0 ? nil : answer(other))
        let first = start(UInt32(SAN_ABI_VERSION), ProviderTables.tcp, &tables)
        guard first == 0 else { return report.row("M2", "it starts with TCP's identity", answer(first)) }
        report.row("M2", "it starts with TCP's identity", nil)
        guard tables.functions.cleanup != nil else { return }
        let second = start(UInt32(SAN_ABI_VERSION), ProviderTables.tcp, &tables)
        let ends = [tables.functions.cleanup(), tables.functions.cleanup(), tables.functions.cleanup()]
        let isCounted = second == 0 && ends[0] == 0 && ends[1] == 0 && ends[2] < 0
        report.row(
            "M2", "start-ups are counted; a clean-up too many is an error",
            isCounted ? nil : "\(answer(second)), then \(ends.map(answer).joined(separator: ", "))")
    }

    private func checkIdentity(_ tables: ProviderTables, _ report: inout ConformanceReport) {
        var info = tables.info
        let name = withUnsafeBytes(of: &info.name) { $0.prefix { $0 != 0 } }
        report.row("M1", "it has a name of 1 to 31 bytes", (1...31).contains(name.count) ? nil : "\(name.count) bytes")
        let isNamed = withUnsafeBytes(of: &info.guid) { $0.contains { $0 != 0 } }
        report.row("M1", "it has a GUID", isNamed ? nil : "all zero")
        let ring = info.maximum_ring
        report.row(
            "M18", "its largest ring is a power of two from 4096 on",
            ring >= 4096 && ring & (ring - 1) == 0 ? nil : "\(ring)")
    }

    private func checkExtensions(_ tables: ProviderTables, _ report: inout ConformanceReport) {
        let optional: [(String, san_guid)] = [
            ("register memory", SAN_REGISTER_MEMORY), ("deregister memory", SAN_DEREGISTER_MEMORY),
            ("register RDMA memory", SAN_REGISTER_RDMA_MEMORY),
            ("deregister RDMA memory", SAN_DEREGISTER_RDMA_MEMORY), ("RDMA write", SAN_RDMA_WRITE),
            ("RDMA read", SAN_RDMA_READ), ("cache callback", SAN_CACHE_CALLBACK),
        ]
        for (name, guid) in optional {
            var pointer: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0, 0)
            let result = tables.extensionAnswer(guid, &pointer)
            switch result {
            case 0: report.row("M5", "\(name) is there", nil)
            case -EOPNOTSUPP: report.absent("M5", "\(name) is absent, and says so with EOPNOTSUPP")
            default: report.row("M5", "\(name) is there or answers EOPNOTSUPP", answer(result))
            }
        }
        var pointer: UInt64 = 0
        let unknown = tables.extensionAnswer(san_guid(a: 1, b: 2, c: 3, d: (4, 5, 6, 7, 8, 9, 10, 11)), &pointer)
        report.row("M4", "an unknown extension answers EINVAL", unknown == -EINVAL ? nil : answer(unknown))
        let list = tables.functions.ioctl(0, UInt32(SAN_IOCTL_ADDRESS_LIST), nil, 0, nil, 0)
        let isList = list == -EOPNOTSUPP || (list >= 0 && Int(list) % MemoryLayout<san_address>.stride == 0)
        report.row("M3", "it lists the addresses of its NICs, or serves this host", isList ? nil : answer(list))
    }

    // MARK: One companion

    private func checkSocket(_ tables: ProviderTables, _ host: SocketAddress, _ report: inout ConformanceReport) {
        var socket: san_socket = 0
        var datagram = san_protocol(family: AF_INET, type: CInt(SOCK_DGRAM.rawValue), protocol: CInt(IPPROTO_UDP))
        let refused = tables.functions.socket(&datagram, &socket)
        report.row("M11", "a datagram socket is refused", refused < 0 ? nil : answer(refused))
        if refused == 0 { _ = tables.functions.close(socket) }
        var tcp = ProviderTables.tcp
        let before = ConformanceUpcalls.contexts.count
        let result = tables.functions.socket(&tcp, &socket)
        report.row(
            "M12", "a companion gets the switch's handle by upcall and returns its own descriptor",
            result == 0 && socket != 0 && ConformanceUpcalls.contexts.count == before + 1
                ? nil : "\(answer(result)), \(ConformanceUpcalls.contexts.count - before) handles")
        guard result == 0, socket != 0 else { return }
        var local = sockaddr()
        local.sa_family = sa_family_t(AF_UNIX)
        let wrong = tables.functions.bind(socket, &local, socklen_t(MemoryLayout<sockaddr>.size))
        report.row("M13", "an address that is not IP is refused", wrong < 0 ? nil : answer(wrong))
        var one: CInt = 1
        let option = tables.functions.set_option(socket, SOL_SOCKET, SO_KEEPALIVE, &one, 4)
        report.row(
            "M14", "an option is taken or answers ENOPROTOOPT",
            option == 0 || option == -ENOPROTOOPT || option == -EOPNOTSUPP ? nil : answer(option))
        var nobody = host
        nobody.port = freePort()
        let begin = libc_nanoseconds()
        let bound = nobody.withSocketAddress {
            tables.functions.bind(socket, $0.assumingMemoryBound(to: sockaddr.self), $1)
        }
        report.row("M13", "it binds to an address and a port", bound == 0 ? nil : answer(bound))
        var connected = nobody.withSocketAddress {
            tables.functions.connect(socket, $0.assumingMemoryBound(to: sockaddr.self), $1)
        }
        let took = Int((libc_nanoseconds() - begin) / 1_000_000)
        let isPending = connected == -EINPROGRESS
        if isPending { connected = CompanionPair.result(tables, socket, seconds: 5) }
        report.row("M19", "connecting does not block", took < 100 ? nil : "it took \(took) ms")
        report.row(
            "M9", "nobody there is a refusal", connected < 0 && connected != -EINPROGRESS ? nil : answer(connected))
        checkAbort(tables, socket, &report)
    }

    private func checkAbort(_ tables: ProviderTables, _ socket: san_socket, _ report: inout ConformanceReport) {
        let begin = libc_nanoseconds()
        let closed = tables.functions.close(socket)
        let took = Int((libc_nanoseconds() - begin) / 1_000_000)
        report.row(
            "M19", "close aborts a connect promptly", closed == 0 && took < 100 ? nil : "\(answer(closed)), \(took) ms")
    }

    private func firstAddress(_ tables: ProviderTables) -> SocketAddress? {
        var list = [san_address](repeating: san_address(), count: 64)
        let length = list.count * MemoryLayout<san_address>.stride
        guard tables.functions.ioctl(0, UInt32(SAN_IOCTL_ADDRESS_LIST), nil, 0, &list, length) > 0 else { return nil }
        return withUnsafeBytes(of: &list[0]) {
            SocketAddress(
                high: $0.loadUnaligned(as: UInt64.self), low: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
                port: 0)
        }
    }

    private func parse(_ text: String) -> SocketAddress? {
        var four = in_addr()
        if inet_pton(AF_INET, text, &four) == 1 { return SocketAddress(ipv4: UInt32(bigEndian: four.s_addr), port: 0) }
        var six = in6_addr()
        guard inet_pton(AF_INET6, text, &six) == 1 else { return nil }
        return withUnsafeBytes(of: &six) {
            SocketAddress(
                high: $0.loadUnaligned(as: UInt64.self), low: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
                port: 0)
        }
    }
}

/// An answer in words.
func answer(_ result: CInt) -> String { result < 0 ? "answered \(describe(-result))" : "answered \(result)" }

func openDescriptors() -> Int {
    guard let directory = opendir("/proc/self/fd") else { return 0 }
    defer { closedir(directory) }
    var count = 0
    while readdir(directory) != nil { count += 1 }
    return count
}

/// A TCP port that was free a moment ago.
func freePort() -> UInt16 {
    let fd = sys_socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard fd >= 0 else { return 9 }
    defer { _ = sys_close(CInt(fd)) }
    _ = SocketAddress(ipv4: 0x7f00_0001, port: 0).withSocketAddress { sys_bind(CInt(fd), $0, $1) }
    return SocketAddress.local(of: CInt(fd))?.port ?? 9
}
