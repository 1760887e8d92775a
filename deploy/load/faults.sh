#!/bin/sh
# Breaks A a little, over and over, so that every panel has something to show: some seconds of each
# fault in a cycle of four minutes. Too short for ServiceARefused and ServiceATimingOut, enough for
# the error budget to notice. Runs on the busybox of an image that the stack has anyway.

faults() { # METHOD [BODY]
    # The pause keeps the connection open until the answer is there.
    { printf '%s /faults HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' "$1" "${#2}" "$2"; sleep 1; } \
        | nc service-a 9464 | head -n 1
}

trap 'faults DELETE; exit 0' TERM INT

pause() { # in steps, so that a signal ends it
    i=0
    while [ "$i" -lt "$1" ]; do
        sleep 1
        i=$((i + 1))
    done
}

while true; do
    for fault in \
        '{"error_rate":0.2,"status":500}' '{"delay_ms":300}' '{"error_rate":0.1,"status":503}' \
        '{"garbage":true}' '{"delay_ms":1500}' '{"reset":true}'; do
        pause 30
        echo "faults: $fault"
        faults PUT "$fault"
        case $fault in
        *true* | *1500*) pause 3 ;; # all calls fail: briefly
        *) pause 15 ;;
        esac
        faults DELETE
    done
done
