// Host link: finds request frames in a byte stream, checks them, and sends the reply frame.
//
// Frames are those of docs/lab-protocol.md, version 1. A frame whose magic, version, length or checks are wrong is
// dropped without a word: the host asks again. One request is handled at a time; rx_ready is low meanwhile.
`include "records.svh"

module host_link #(
    parameter int MOST = 4096  // bytes of a payload
) (
    input  logic             clk,
    input  logic             reset,
    input  logic [7:0]       rx_data,
    input  logic             rx_valid,
    output logic             rx_ready,
    output logic [7:0]       tx_data,
    output logic             tx_valid,
    input  logic             tx_ready,
    output request_t request,
    output payload_t payload,
    input  answer_t  answer,
    // the reply's payload as little-endian words, each given a clock after it is asked for
    output logic [31:0]      reply_word,
    input  logic [31:0]      reply_data
);
    typedef enum logic [2:0] {HEAD, PAYLOAD, CHECK, WAIT, SEND_HEAD, SEND_PAYLOAD, SEND_CHECK} state_t;
    state_t state;
    logic [31:0] crc, count;
    logic [127:0] head;  // bytes 0 … 15, byte 0 lowest
    logic [23:0] check;  // the first three bytes of a check

    function automatic logic [31:0] next_crc(input logic [31:0] held, input logic [7:0] data);
        next_crc = held ^ {24'b0, data};
        for (int i = 0; i < 8; i++) next_crc = next_crc[0] ? (next_crc >> 1) ^ 32'hEDB88320 : next_crc >> 1;
    endfunction

    logic [31:0] length;
    assign length = head[127:96];
    assign request = {state == WAIT, head[31:24], head[63:32], head[95:64], length};
    assign payload = {state == PAYLOAD && rx_valid, count, rx_data};
    assign rx_ready = state == HEAD || state == PAYLOAD || state == CHECK;
    assign tx_valid = state == SEND_HEAD || state == SEND_PAYLOAD || state == SEND_CHECK;

    logic [31:0] next_count;  // place in the reply's payload after this clock
    assign next_count = state == SEND_PAYLOAD ? count + {31'b0, tx_ready} : 0;
    assign reply_word = next_count >> 2;

    logic [127:0] out_head;
    logic [31:0] out_check;
    assign out_head = {answer.length, head[95:32], head[31:24] | 8'h80, 8'h01, 16'h7EB1};
    assign out_check = ~crc;
    always_comb begin
        if (state == SEND_PAYLOAD) tx_data = reply_data[8 * count[1:0] +: 8];
        else if (state == SEND_HEAD && count < 16) tx_data = out_head[8 * count[3:0] +: 8];
        else tx_data = out_check[8 * count[1:0] +: 8];
    end

    always_ff @(posedge clk) begin
        if (reset) begin
            state <= HEAD;
            count <= 0;
            crc <= 32'hFFFFFFFF;
        end else case (state)
            HEAD: if (rx_valid) begin
                count <= count + 1;
                if (count < 16) begin
                    head[8 * count[3:0] +: 8] <= rx_data;
                    crc <= next_crc(count == 0 ? 32'hFFFFFFFF : crc, rx_data);
                end else check <= {rx_data, check[23:8]};
                if (count == 0 && rx_data != 8'hB1) count <= 0;
                if (count == 1 && rx_data != 8'h7E) begin
                    count <= rx_data == 8'hB1 ? 1 : 0;
                    crc <= next_crc(32'hFFFFFFFF, 8'hB1);
                end
                if (count == 19) begin
                    count <= 0;
                    crc <= 32'hFFFFFFFF;
                    if ({rx_data, check} == ~crc && head[23:16] == 8'h01 && length <= MOST)
                        state <= length == 0 ? CHECK : PAYLOAD;
                end
            end
            PAYLOAD: if (rx_valid) begin
                crc <= next_crc(crc, rx_data);
                count <= count + 1;
                if (count == length - 1) begin
                    count <= 0;
                    state <= CHECK;
                end
            end
            CHECK: if (rx_valid) begin
                check <= {rx_data, check[23:8]};
                count <= count + 1;
                if (count == 3) begin
                    count <= 0;
                    state <= {rx_data, check} == ~crc ? WAIT : HEAD;
                end
            end
            WAIT: begin
                count <= 0;
                crc <= 32'hFFFFFFFF;
                if (answer.drop) state <= HEAD;
                else if (answer.done) state <= SEND_HEAD;
            end
            SEND_HEAD: if (tx_ready) begin
                count <= count + 1;
                if (count < 16) crc <= next_crc(crc, tx_data);
                if (count == 19) begin
                    count <= 0;
                    crc <= 32'hFFFFFFFF;
                    state <= SEND_PAYLOAD;  // a reply has a status at least
                end
            end
            SEND_PAYLOAD: if (tx_ready) begin
                crc <= next_crc(crc, tx_data);
                count <= next_count;
                if (count == answer.length - 1) begin
                    count <= 0;
                    state <= SEND_CHECK;
                end
            end
            SEND_CHECK: if (tx_ready) begin
                count <= count + 1;
                if (count == 3) begin
                    count <= 0;
                    state <= HEAD;
                end
            end
            default: state <= HEAD;
        endcase
    end
endmodule
