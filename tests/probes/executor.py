import concurrent.futures
import socket


def work(number):
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x" * number)
        return len(right.recv(100))


if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        print(list(pool.map(work, [1, 2, 3])))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        print(list(pool.map(work, [1, 2, 3])))
