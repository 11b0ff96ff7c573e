# What a Perl program is made of: regular expressions, hashes, substitution, sorting with a block, string building.
use strict;
my $rounds = shift;
my @lines = map { sprintf "%d:%s=%x;key%d", $_, 'ab' x ($_ % 7), $_ * 2654435761 % 65536, $_ % 50 } 1 .. 1000;

for my $round (1 .. $rounds) {
    my (%total, $sum, $text);
    for (@lines) {
        if (/^(\d+):((?:ab)*)=([0-9a-f]+);key(\d+)$/) {
            $total{$4} += length($2) + hex $3;
            $sum += $1 * 0.25;
        }
        (my $copy = $_) =~ s/ab/-/g;
        $text .= substr $copy, 0, 6;
    }
    my @sorted = sort { $total{$a} <=> $total{$b} || $a cmp $b } keys %total;
    my $check = 0;
    $check = ($check * 31 + ord) % 1000003 for split //, substr $text, 0, 2000;
    print "$round $sum @sorted[0 .. 5] $check\n";
}
