# The guest of the tests: it boots in a fifth of a second, needs no operating system, and notices any byte it loses.
#
# It fills 3 MiB with noise. Then, at each tick of the timer, it checks the noise and the trail of all counts so far,
# counts on, adds the count to the trail, and prints it: eight letters, 'a' for 0 to 'p' for 15. A wrong byte prints '!'.
#
#   as --32 CountingGuest.s -o guest.o
#   ld -m elf_i386 -Ttext 0x7c00 --oformat binary guest.o -o guest.bin
#   xxd -p -c 60 guest.bin                                 # CountingGuest.cs has these bytes
.code16
.set FIRST, 0x100000
.set LAST,  0x400000
.set COM1, 0x3f8
start:
    ljmp $0, $begin
begin:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    # FS reaches all of memory once it has been loaded in protected mode.
    lgdt table
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    movw $8, %bx
    movw %bx, %fs
    andb $0xfe, %al
    movl %eax, %cr0
    sti
    movl $FIRST, %edi
    movl $1, %eax
fill:
    imull $1664525, %eax, %eax
    addl $1013904223, %eax
    movl %eax, %fs:(%edi)
    addl $4, %edi
    cmpl $LAST, %edi
    jb fill
pass:
    hlt
    movl $FIRST, %edi
    movl $1, %eax
verify:
    imull $1664525, %eax, %eax
    addl $1013904223, %eax
    cmpl %eax, %fs:(%edi)
    jne wrong
    addl $4, %edi
    cmpl $LAST, %edi
    jb verify
    movl count, %ebx
trail:
    cmpl %ebx, %fs:LAST(,%ebx,4)
    jne wrong
    decl %ebx
    jns trail
    incl count
    movl count, %ebx
    movl %ebx, %fs:LAST(,%ebx,4)
    movw $8, %cx
digit:
    roll $4, %ebx
    movb %bl, %al
    andb $15, %al
    addb $'a', %al
    call put
    loop digit
    movb $10, %al
    call put
    jmp pass
wrong:
    movb $'!', %al
    call put
    jmp pass
put:
    movb %al, %ah
    movw $COM1+5, %dx
busy:
    inb %dx, %al
    testb $0x20, %al
    jz busy
    movb %ah, %al
    movw $COM1, %dx
    outb %al, %dx
    ret
count: .long 0
table:
    .word 15
    .long entries
    .balign 8
entries:
    .quad 0
    .quad 0x00cf92000000ffff
