import socket
import threading

main_over = threading.Event()
left, right = socket.socketpair()


def outlive():
    main = threading.main_thread()
    main.join()
    left.sendall(b"still here")
    print(right.recv(100), main.is_alive(), threading.current_thread().name)
    left.close()
    right.close()


def forever():
    threading.Event().wait()


threading.Thread(target=outlive, name="outlives").start()
threading.Thread(target=forever, name="forever", daemon=True).start()
print(sorted(thread.name for thread in threading.enumerate()))
