// What passes between the parts of a board: a request and its answer, bytes of its payload, a cell to write.
`ifndef RECORDS
`define RECORDS
typedef struct packed {
    logic        valid;  // checked; stays until it is answered or dropped
    logic [7:0]  kind;
    logic [31:0] session, number, length;
} request_t;

typedef struct packed {
    logic        write;
    logic [31:0] address;
    logic [7:0]  data;
} payload_t;

typedef struct packed {
    logic        done, drop;
    logic [31:0] length;  // bytes of the reply's payload
} answer_t;

typedef struct packed {
    logic        write;
    logic [15:0] row, column;
    logic        level;
} cell_t;
`endif
