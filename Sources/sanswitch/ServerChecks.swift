import CLibc
import Glibc
import Libc

/// A server seen as a client would see it: the steps after which a connection to it switches, each tried.
enum ServerChecks {
    static func run(_ endpoint: Endpoint, _ diagnosis: inout Diagnosis) {
        let addresses: [SocketAddress]
        switch resolve(endpoint) {
        case .success(let found): addresses = found
        case .failure(let failure):
            return diagnosis.bad(
                "\(endpoint.host) does not resolve: \(failure.text)", remedy: "correct the name or use the address")
        }
        let here = addresses.filter(isOnThisHost)
        guard !here.isEmpty else {
            let texts = addresses.map(\.hostText).joined(separator: ", ")
            return diagnosis.bad(
                texts == endpoint.host ? "\(texts) is not this host" : "\(endpoint.host) is \(texts), not this host",
                remedy: "shared memory serves connections within one host (and one network namespace) only")
        }
        // In the resolver's order, as clients try them.
        var refusals: [String] = []
        for address in here {
            switch probe(address) {
            case .failed(let code): refusals.append("\(address.text): \(describe(code))")
            case .connected:
                diagnosis.good("\(address.text) is this host and a TCP server answers there")
                checkRules(address, &diagnosis)
                return checkRendezvous(address, &diagnosis)
            }
        }
        diagnosis.bad(
            "no TCP server answers (\(refusals.joined(separator: "; ")))",
            remedy: "start the server: `sanswitch run -- SERVER`")
    }

    /// Of the programs that connect there, only rules for all of them can be told.
    private static func checkRules(_ address: SocketAddress, _ diagnosis: inout Diagnosis) {
        for rule in ConfigurationReport().rules where rule.rule.matches(.connect, address) {
            if !rule.program.isEmpty {
                diagnosis.note("\(rule.place) decides for some programs: \(printable(rule.text))")
            } else if rule.rule.isAllowed {
                return
            } else {
                return diagnosis.bad(
                    "\(rule.place) keeps it on TCP: \(printable(rule.text))",
                    remedy: "change that rule, or put an `allow` for \(address.text) before it")
            }
        }
    }

    private struct ResolveFailure: Error { let text: String }

    private static func resolve(_ endpoint: Endpoint) -> Result<[SocketAddress], ResolveFailure> {
        var hints = addrinfo()
        hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(endpoint.host, "\(endpoint.port)", &hints, &list)
        guard code == 0 else { return .failure(ResolveFailure(text: String(cString: gai_strerror(code)))) }
        defer { freeaddrinfo(list) }
        var addresses: [SocketAddress] = []
        while let entry = list {
            if let raw = entry.pointee.ai_addr, let address = SocketAddress(raw, length: Int(entry.pointee.ai_addrlen))
            {
                addresses.append(address)
            }
            list = entry.pointee.ai_next
        }
        return .success(addresses)
    }

    /// The kernel binds a socket to an address of this host and to no other; the library asks in the same way.
    private static func isOnThisHost(_ address: SocketAddress) -> Bool {
        if address.isLoopback || address.isWildcard { return true }
        let fd = sys_socket(address.isIPv4 ? AF_INET : AF_INET6, CInt(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard fd >= 0 else { return false }
        defer { _ = sys_close(CInt(fd)) }
        var any = address
        any.port = 0
        return any.withSocketAddress { sys_bind(CInt(fd), $0, $1) } == 0
    }

    private enum Probe {
        case connected
        case failed(CInt)
    }

    /// One TCP connection, opened and closed.
    private static func probe(_ address: SocketAddress) -> Probe {
        let kind = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let fd = sys_socket(address.isIPv4 ? AF_INET : AF_INET6, kind, 0)
        guard fd >= 0 else { return .failed(CInt(-fd)) }
        defer { _ = sys_close(CInt(fd)) }
        let result = address.withSocketAddress { sys_connect(CInt(fd), $0, $1) }
        if result == 0 { return .connected }
        guard result == -Int(EINPROGRESS) else { return .failed(CInt(-result)) }
        var entry = pollfd(fd: CInt(fd), events: CShort(POLLOUT), revents: 0)
        guard sys_poll(&entry, 1, 2000) == 1 else { return .failed(ETIMEDOUT) }
        var code: CInt = 0
        var length = socklen_t(4)
        _ = sys_getsockopt(CInt(fd), SOL_SOCKET, SO_ERROR, &code, &length)
        return code == 0 ? .connected : .failed(code)
    }

    /// Who answers at the rendezvous, and whether the library would believe that it is the server.
    private static func checkRendezvous(_ address: SocketAddress, _ diagnosis: inout Diagnosis) {
        guard let owner = RendezvousOwner(of: address) else {
            return diagnosis.bad(
                "the server does not run under sanswitch (nothing at the rendezvous of \(address.text))",
                remedy:
                    "start the server under the switch: `sanswitch run -- SERVER`; a static program cannot be served")
        }
        let name = readFile("/proc/\(owner.pid)/comm", limit: 64).map {
            printable(String(decoding: $0.dropLast(), as: UTF8.self))
        }
        let who = "\(name ?? "a process") (pid \(owner.pid), user \(owner.uid))"
        let listeners = ListenerOwners.of(address)
        guard owner.uid == 0 || listeners.isEmpty || listeners.contains(owner.uid) else {
            return diagnosis.bad(
                "the rendezvous belongs to \(who), the TCP socket to user \(listeners.map { "\($0)" }.joined(separator: ", "))",
                remedy: "find out what pid \(owner.pid) is: only the server's own user, or root, may stand there")
        }
        diagnosis.good("\(who) answers at the rendezvous of \(address.text)")
    }
}

/// The process that listens at the rendezvous of a server's address: an abstract AF_UNIX name made of port and address.
struct RendezvousOwner {
    let pid: pid_t
    let uid: uid_t

    /// The exact address first, then the wildcard, as the library looks.
    init?(of server: SocketAddress) {
        let wildcard = SocketAddress(high: 0, low: 0, port: server.port)
        guard let found = Self.ask(server) ?? Self.ask(wildcard) else { return nil }
        self = found
    }

    private init(_ credentials: ucred) { (pid, uid) = (credentials.pid, credentials.uid) }

    private static func name(of address: SocketAddress) -> [UInt8] {
        func hexadecimal(_ value: UInt64, _ digits: Int) -> String {
            let text = String(value, radix: 16)
            return String(repeating: "0", count: digits - text.count) + text
        }
        var name = "\0sanswitch/tcp/" + hexadecimal(UInt64(address.port), 4)
        if !address.isWildcard {
            name += hexadecimal(UInt64(bigEndian: address.high), 16) + hexadecimal(UInt64(bigEndian: address.low), 16)
        }
        return Array(name.utf8)
    }

    private static func ask(_ address: SocketAddress) -> RendezvousOwner? {
        let fd = sys_socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        guard fd >= 0 else { return nil }
        defer { _ = sys_close(CInt(fd)) }
        var unix = sockaddr_un()
        unix.sun_family = sa_family_t(AF_UNIX)
        let name = name(of: address)
        withUnsafeMutableBytes(of: &unix.sun_path) { $0.copyBytes(from: name) }
        guard sys_connect(CInt(fd), &unix, socklen_t(2 + name.count)) == 0 else { return nil }
        var credentials = ucred()
        var length = socklen_t(MemoryLayout<ucred>.size)
        guard sys_getsockopt(CInt(fd), SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0 else { return nil }
        return RendezvousOwner(credentials)
    }
}

/// The users whose sockets listen on a port, from /proc/net/tcp and tcp6.
enum ListenerOwners {
    static func of(_ server: SocketAddress) -> Set<uid_t> {
        var owners: Set<uid_t> = []
        for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
            guard let bytes = readFile(file, limit: 1 << 24) else { continue }
            for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n").dropFirst() {
                // sl local_address rem_address st tx:rx tr:when retrnsmt uid ...; state 0A is LISTEN.
                let fields = line.split(separator: " ")
                guard fields.count > 7, fields[3] == "0A", let uid = uid_t(fields[7]) else { continue }
                let parts = fields[1].split(separator: ":")
                if parts.count == 2, UInt16(parts[1], radix: 16) == server.port { owners.insert(uid) }
            }
        }
        return owners
    }
}
