# 16 MiB in which every 4 KiB block is another: the host knows what must be on the disk.
print pack("N", ($_ * 2654435761) & 0xffffffff) x 1024 for 1 .. 4096;
