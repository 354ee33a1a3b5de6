// A client and a server, the plainest there are: nothing in here knows of the switch.
//
//     $ swiftc -O -o hello-swift examples/hello.swift
//     $ ./hello-swift
//     1000 questions, 1000 right answers
//     TCP carried every byte
//     $ build/bin/sanswitch run -- ./hello-swift
//     1000 questions, 1000 right answers
//     TCP carried the beginning, the companion the rest
import Glibc

let questions = 1000
let size = 64

func stop(_ what: String) -> Never {
    perror(what)
    exit(1)
}

func readAll(_ fd: CInt) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: size)
    var have = 0
    while have < size {
        let got = bytes.withUnsafeMutableBytes { read(fd, $0.baseAddress! + have, size - have) }
        if got <= 0 { return nil }
        have += got
    }
    return bytes
}

/// Gives every message back.
func serve(_ listener: CInt) {
    let fd = accept(listener, nil, nil)
    if fd < 0 { stop("accept") }
    while let bytes = readAll(fd) {
        if write(fd, bytes, size) != size { stop("write") }
    }
    close(fd)
}

/// The kernel's own count of what its TCP has sent: the 26th number of struct tcp_info (Linux 4.19).
func sentByTCP(_ fd: CInt) -> UInt64 {
    var numbers = [UInt64](repeating: 0, count: 32)
    var length = socklen_t(numbers.count * 8)
    if getsockopt(fd, CInt(IPPROTO_TCP), TCP_INFO, &numbers, &length) != 0 { stop("TCP_INFO") }
    return numbers[25]
}

func withAddress<Result>(_ address: inout sockaddr_in, _ body: (UnsafeMutablePointer<sockaddr>) -> Result) -> Result {
    withUnsafeMutablePointer(to: &address) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1, body) }
}

func ask(_ address: sockaddr_in) {
    var address = address
    let fd = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
    if fd < 0 || withAddress(&address, { connect(fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }) != 0 { stop("connect") }
    var right = 0
    for number in 0..<questions {
        var question = Array("question \(number)".utf8)
        question += [UInt8](repeating: 0, count: size - question.count)
        if write(fd, question, size) != size { stop("write") }
        if readAll(fd) == question { right += 1 }
    }
    print("\(questions) questions, \(right) right answers")
    let isAllOnTCP = sentByTCP(fd) == UInt64(questions * size)
    print(isAllOnTCP ? "TCP carried every byte" : "TCP carried the beginning, the companion the rest")
    close(fd)
}

var address = sockaddr_in()
address.sin_family = sa_family_t(AF_INET)
address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
var length = socklen_t(MemoryLayout<sockaddr_in>.size)
let listener = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
if listener < 0 || withAddress(&address, { bind(listener, $0, length) }) != 0 || listen(listener, 1) != 0 { stop("listen") }
if withAddress(&address, { getsockname(listener, $0, &length) }) != 0 { stop("getsockname") }

// The server is a thread here: both ends of a connection may be in one process.
var server = pthread_t()
pthread_create(
    &server, nil,
    { _ in
        serve(listener)
        return nil
    }, nil)
ask(address)
pthread_join(server, nil)
