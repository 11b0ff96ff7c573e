# The twenty most frequent words of the input: a program with hashes, regular expressions and sorting whose output the
# host compares with its own perl's.
my %count;
while (<>) {
        $count{lc $1}++ while /([A-Za-z]+)/g;
}
printf "%d %s\n", $count{$_}, $_ for (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 19];
